"""Where a client keeps what is its own: private state, predictions, and its record of itself.

In a simulation, and wherever clients see the server's run directory, that is the run directory. In a deployment it is a
folder on the node's own disk, and only what `report.share` allows leaves it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from fed_rebel import files, tensor_file
from fed_rebel.outbox import PREDICTIONS, RECORD, STATE, STATE_SUM
from fed_rebel.runs import private_file
from fed_rebel.tensor_file import Tensors
from fed_rebel.training.setup import measure
from strategy.messages import Order

Files = dict[str, bytes]
"""What goes into the run directory with the client's reply, by the ends of the files' names."""


class Disk(Protocol):
    """The disk of one client, as one order finds it."""

    def load(self) -> Tensors:
        """The private state that counts. Raises `ValueError` where it is not there or is damaged."""

    def save(self, tensors: Tensors) -> Files:
        """Keep the private state after the round; it counts once the server has the client's good reply.

        Raises `ValueError`, and writes nothing, where a number is not finite.
        """

    def keep(self, record: Mapping[str, Any], predictions: pd.DataFrame) -> Files:
        """Keep an evaluation."""


def disk_of(order: Order, client: int, folder: Path | None) -> Disk:
    """The client's: its own in `folder`, which nobody else shall read, else the run directory."""
    if folder is None:
        return InRunDirectory(order, client)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return OwnDisk(order, client, folder)


@dataclass(frozen=True)
class InRunDirectory:
    """All is written into the order's outbox, and nothing into the reply."""

    order: Order
    client: int

    def load(self) -> Tensors:
        """The state accepted in the round, else of the one before it, where all states are."""
        run, number = Path(self.order.run), self.order.round
        accepted = private_file(run, number, self.client)
        return _finite(tensor_file.read(accepted if accepted.exists() else private_file(run, number - 1, self.client)))

    def save(self, tensors: Tensors) -> Files:
        """Beside those of the other clients."""
        self._write(STATE, tensor_file.to_bytes(_finite(tensors)))
        return {}

    def keep(self, record: Mapping[str, Any], predictions: pd.DataFrame) -> Files:
        """Beside those of the other clients."""
        self._write(PREDICTIONS, predictions.to_parquet(index=False))
        self._write(RECORD, json.dumps(record).encode())
        return {}

    def _write(self, end: str, content: bytes) -> None:
        files.replace(Path(self.order.outbox) / f"{self.client}{end}", content, sync=False)  # the server does


@dataclass(frozen=True)
class OwnDisk:
    """A folder of the run and the client: its private states as `<SHA-256>.safetensors`, the one that counts and the
    one before or after it; `predictions.parquet` and `row.csv`, what they come to, of its last evaluation."""

    order: Order
    client: int
    folder: Path

    @property
    def place(self) -> Path:
        """Where the client's files of this run lie."""
        return self.folder / self.order.run_id / str(self.client)

    def load(self) -> Tensors:
        """The state whose SHA-256 the server knows."""
        wanted = self._state(self.order.state)
        if not wanted.is_file():
            raise ValueError(
                f"{wanted}: the private state that the server knows of is not there; put it back, or start the node "
                "with the folder that it had"
            )
        content = wanted.read_bytes()
        if _sum(content) != self.order.state:
            raise ValueError(f"{wanted}: altered since it was written; put it back as it was")
        return _finite(tensor_file.from_bytes(content))

    def save(self, tensors: Tensors) -> Files:
        """Beside the one that counts; the server is told the new one's SHA-256.

        Older ones go. The order's is of a finished round, from which a run that is stopped goes on.
        """
        content = tensor_file.to_bytes(_finite(tensors))
        new = self._state(_sum(content))
        files.replace(new, content)
        for state in self.place.glob(f"*{STATE}"):
            if state not in (new, self._state(self.order.state)):
                state.unlink(missing_ok=True)
        return {STATE_SUM: _sum(content).encode()}

    def keep(self, record: Mapping[str, Any], predictions: pd.DataFrame) -> Files:
        """The client's row and predictions; what `report.share` says goes to the server too."""
        row, rows = measure(self.order.settings, [dict(record)], predictions), predictions.to_parquet(index=False)
        files.replace(self.place / f"predictions{PREDICTIONS}", rows)
        files.replace(self.place / "row.csv", row.to_csv(index=False).encode())
        share = self.order.settings.report.share
        if share == "predictions":
            return {RECORD: json.dumps(record).encode(), PREDICTIONS: rows}
        return {RECORD: json.dumps(row.to_dict("records")[0]).encode()} if share == "rows" else {}

    def _state(self, checksum: str) -> Path:
        return self.place / f"{checksum}{STATE}"


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _finite(tensors: Tensors) -> Tensors:
    if wrong := tensor_file.not_finite(tensors):
        raise ValueError(f"private tensor {wrong}: not finite")
    return tensors
