"""SHA-256 sums of files: that what is read is what was written."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Checksum:
    """Of a file as it was written, whole."""

    bytes: int
    sha256: str
    """In hexadecimal."""

    @classmethod
    def of(cls, path: Path) -> "Checksum":
        """Of the file as it is. Raises `OSError` where it cannot be read."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return cls(file.tell(), digest)

    def trouble(self, path: Path, *, grows: bool = False) -> str | None:
        """What is wrong with a file that had this sum; None where nothing is.

        A file that `grows` may have more at its end than it had.
        """
        try:
            with path.open("rb") as file:
                if (size := path.stat().st_size) < self.bytes:
                    return f"truncated, {size} of {self.bytes} bytes"
                if size > self.bytes and not grows:
                    return f"altered, {size} bytes where {self.bytes} were written"
                whole = hashlib.sha256(file.read(self.bytes)) if grows else hashlib.file_digest(file, "sha256")
        except FileNotFoundError:
            return "missing"
        except OSError as error:
            return f"cannot be read, {error.strerror}"
        return None if whole.hexdigest() == self.sha256 else "altered since it was written"


def to_json(sums: Mapping[str, Checksum]) -> dict[str, Any]:
    """Sums by name, as JSON holds them."""
    return {name: asdict(found) for name, found in sorted(sums.items())}


def from_json(sums: Mapping[str, Any]) -> dict[str, Checksum]:
    """What `to_json` gave. Raises `TypeError` for anything else."""
    return {name: Checksum(**found) for name, found in sums.items()}
