"""Files, replaced atomically."""

import errno
import os
import tempfile
from pathlib import Path

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says where nothing more can be written: the disk is full, or a quota or a limit is reached."""


def replace(path: Path, content: bytes, mode: int = 0o644, *, sync: bool = True) -> None:
    """Put `content` at `path` in one step: a reader sees the old file or the new one, whatever happens.

    Without `sync` that does not hold where the machine fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
