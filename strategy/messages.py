"""What server and clients tell each other, as typed records over Flower's messages."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import cast

from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fed_rebel.datasets import Form
from fed_rebel.settings import Scalar, Settings
from fed_rebel.tensor_file import Tensors, not_finite
from strategy.arrays import from_arrays, to_arrays

NO_SPACE = 1000
"""The code of a Flower error: the client's disk is full, which is no fault of its own."""


class Stage(StrEnum):
    """What a round trains."""

    WARM_START = "warm_start"
    """Head1, Head2 and early classifier; all averaged."""
    PRIVATE_START = "private_start"
    """Nothing: each client takes the warm start's private parts and its own label prior."""
    DISTILL = "distill"
    """Head1, early classifier and Head2 on the joint loss; Head2 averaged."""
    PRIVATE_PASS = "private_pass"
    """Head1 and early classifier once more, against the averaged Head2; nothing averaged."""
    FINETUNE = "finetune"
    """Head2 and Tail on cross-entropy; both averaged."""
    NEWCOMERS = "newcomers"
    """Each newcomer takes the warm start's private parts and its own label prior, and trains them once."""
    WHOLE = "whole"
    """The whole base model on cross-entropy, in the place of the three above; averaged as far as `method` shares it."""


STARTS = (Stage.PRIVATE_START, Stage.NEWCOMERS)
"""Where a client gets its private state; without one it cannot take part."""


@dataclass(frozen=True)
class Order:
    """Server to client: what to do in a round."""

    settings: Settings
    """The whole run's."""
    run: str
    """The run directory, where the client's private state of the round before lies."""
    outbox: str
    """A folder of this exchange alone: what the client writes there counts once the server has its good reply."""
    round: int
    """From 0; private state written in it belongs to it."""
    stage: Stage
    """What is trained; in an evaluation, what was."""
    early_seed: int
    """The seed of the early classifier's projection."""
    last: bool
    """Whether this is the run's last evaluation, which also looks at the whole balanced test set."""
    tensors: Tensors
    """The parts that the stage shares, under `part.name`."""
    beside: Tensors = field(default_factory=dict)
    """What the strategy sends beside them."""
    run_id: str = ""
    """The run's name on the disk of a client that keeps its private state there; hexadecimal."""
    state: str = ""
    """SHA-256 of the private state that counts, of those on the client's own disk; empty where there is none."""
    form: Form | None = None
    """What the data have in common, where each client brings its own (`partition.kind = "own"`)."""

    def __post_init__(self) -> None:
        # A client makes file names of them.
        for what, name in (("run_id", self.run_id), ("state", self.state)):
            if not re.fullmatch("[0-9a-f]*", name):
                raise ValueError(f"{what} = {name!r}: allowed: hexadecimal digits")

    def to_record(self) -> RecordDict:
        """As the content of a Flower message."""
        about: dict[str, str | int | bool] = {
            "run": self.run,
            "run_id": self.run_id,
            "outbox": self.outbox,
            "round": self.round,
            "stage": str(self.stage),
            "early_seed": self.early_seed,
            "last": self.last,
            "state": self.state,
            "form": self.form.to_json() if self.form else "",
        }
        return RecordDict(
            {
                "order": ConfigRecord(dict(about)),
                "settings": ConfigRecord(dict(self.settings.flat())),
                "tensors": to_arrays(self.tensors),
                "beside": to_arrays(self.beside),
            }
        )

    @classmethod
    def from_record(cls, record: RecordDict) -> "Order":
        """What `to_record` gave. Raises `ValueError` for settings that are not allowed."""
        about = record.config_records["order"]
        return cls(
            settings=Settings.from_flat(cast("dict[str, Scalar]", dict(record.config_records["settings"]))),
            run=str(about["run"]),
            run_id=str(about["run_id"]),
            outbox=str(about["outbox"]),
            round=cast(int, about["round"]),
            stage=Stage(str(about["stage"])),
            early_seed=cast(int, about["early_seed"]),
            last=bool(about["last"]),
            tensors=from_arrays(record.array_records["tensors"]),
            beside=from_arrays(record.array_records["beside"]),
            state=str(about["state"]),
            form=Form.from_json(str(about["form"])) if about["form"] else None,
        )


@dataclass(frozen=True)
class Reply:
    """Client to server: what came of it."""

    client: int
    """The client's number in the partition."""
    samples: int
    """Its training images, at least 1."""
    tensors: Tensors = field(default_factory=dict)
    """The trained parts that the stage shares; empty where it shares none."""
    losses: dict[str, float] = field(default_factory=dict)
    """The mean of each loss over the round's steps."""
    label_counts: tuple[int, ...] = ()
    """Training images of each class: in the warm start alone, where the mixture is averaged class by class."""
    weight: float = 1.0
    """Its weight in the round's averages, above 0, as `strategy.weights` has it."""
    beside: Tensors = field(default_factory=dict)
    """What the strategy sends beside the trained parts."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """What a client on a disk of its own lets go into the run directory, by the ends of the files' names."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples = {self.samples}: client {self.client} has no images; at least 1")
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight = {self.weight} of client {self.client}: allowed: finite, above 0")
        for name, loss in self.losses.items():
            if not math.isfinite(loss):
                raise ValueError(f"{name} of client {self.client}: not finite")

    def to_record(self) -> RecordDict:
        """As the content of a Flower message."""
        files = {"files": ConfigRecord(dict(self.files))} if self.files else {}
        return RecordDict(
            {
                "reply": MetricRecord({"client": self.client, "samples": self.samples, "weight": self.weight}),
                "losses": MetricRecord(dict(self.losses)),
                "label_counts": MetricRecord({"counts": list(self.label_counts)} if self.label_counts else {}),
                "tensors": to_arrays(self.tensors),
                "beside": to_arrays(self.beside),
                **files,
            }
        )

    @classmethod
    def from_record(cls, record: RecordDict) -> "Reply":
        """What `to_record` gave. Raises `ValueError` for a reply that must not be averaged."""
        try:
            numbers = record.metric_records["reply"]
            counts = cast("list[int]", record.metric_records["label_counts"].get("counts", []))
            reply = cls(
                client=cast(int, numbers["client"]),
                samples=cast(int, numbers["samples"]),
                tensors=from_arrays(record.array_records["tensors"]),
                losses=cast("dict[str, float]", dict(record.metric_records["losses"])),
                label_counts=tuple(counts),
                weight=cast(float, numbers["weight"]),
                beside=from_arrays(record.array_records["beside"]),
                files=cast("dict[str, bytes]", dict(record.config_records.get("files", {}))),
            )
        except KeyError as error:
            raise ValueError(f"its reply has no {error}") from None
        if wrong := not_finite(reply.tensors | reply.beside):
            raise ValueError(f"tensor {wrong} of client {reply.client}: not finite")
        return reply


@dataclass(frozen=True)
class Greeting:
    """Server to client, once: what the run is made from."""

    settings: Settings
    """The whole run's."""
    identity: Mapping[str, str]
    """What the run's bytes depend on beside them."""
    form: Form
    """What the clients' data have in common."""

    def to_record(self) -> RecordDict:
        """As the content of a Flower message."""
        about = {"identity": json.dumps(dict(self.identity)), "form": self.form.to_json()}
        return RecordDict({"greeting": ConfigRecord(dict(about)), "settings": ConfigRecord(dict(self.settings.flat()))})

    @classmethod
    def from_record(cls, record: RecordDict) -> "Greeting":
        """What `to_record` gave. Raises `ValueError` for settings that are not allowed."""
        about = record.config_records["greeting"]
        return cls(
            settings=Settings.from_flat(cast("dict[str, Scalar]", dict(record.config_records["settings"]))),
            identity=json.loads(str(about["identity"])),
            form=Form.from_json(str(about["form"])),
        )


@dataclass(frozen=True)
class Hello:
    """Client to server, once: which client a node is."""

    client: int
    """The client's number."""
    samples: int = 0
    """Its training images, where they are its own; 0 where they are dealt."""
    own_disk: bool = False
    """Whether it keeps its private state and its predictions on a disk of its own."""

    def to_record(self) -> RecordDict:
        """As the content of a Flower message."""
        return RecordDict({"hello": ConfigRecord(asdict(self))})

    @classmethod
    def from_record(cls, record: RecordDict) -> "Hello":
        """What `to_record` gave."""
        told = record.config_records["hello"]
        return cls(cast(int, told["client"]), cast(int, told["samples"]), cast(bool, told["own_disk"]))


def size(tensors: Tensors) -> int:
    """Bytes of the tensors in a message."""
    return sum(tensor.nbytes for tensor in tensors.values())
