"""An outbox: a folder for what the clients write in one exchange, until it is known whose replies are good."""

import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from fed_rebel.checksums import Checksum

STATE, STATE_SUM, RECORD, PREDICTIONS = ".safetensors", ".sha256", ".json", ".parquet"
"""How a client's files end: its private state, or in its place the state's SHA-256; its record of itself; its
predictions."""


class Outbox:
    """Clients write; the server brings what they wrote onto the disk and takes its sums, while others are at work."""

    def __init__(self, path: Path) -> None:
        """A new folder at `path`."""
        path.mkdir()
        self.path = path
        self._pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="outbox")
        self._begun: dict[int, dict[Path, Future[Checksum]]] = {}

    def secure(self, client: int) -> None:
        """Begin with the files of a client, whose reply is there: it writes no more."""
        files = [self.path / f"{client}{end}" for end in (STATE, STATE_SUM, RECORD, PREDICTIONS)]
        self._begun[client] = {file: self._pool.submit(_on_disk, file) for file in files if file.is_file()}

    def secured(self, client: int) -> dict[Path, Checksum]:
        """The files of a client and their sums, once all are on the disk. Raises `OSError` where that fails."""
        if client not in self._begun:
            self.secure(client)
        return {file: on_disk.result() for file, on_disk in self._begun[client].items()}

    def remove(self) -> None:
        """Remove what is still in it."""
        self._pool.shutdown()
        shutil.rmtree(self.path, ignore_errors=True)


def _on_disk(file: Path) -> Checksum:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
    return Checksum.of(file)
