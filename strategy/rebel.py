"""ReBEL on the server: Head2 and Tail are shared, once the warm start has given every client its private parts."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from fed_rebel import tensor_file
from fed_rebel.model.rebel import PRIVATE, SHARED
from fed_rebel.model.rebel import Rebel as Model
from fed_rebel.runs import WARM_START, RunDirectory
from fed_rebel.settings import Settings
from fed_rebel.tensor_file import Tensors
from fed_rebel.training.batches import evaluation_batches
from fed_rebel.training.folding import fold
from fed_rebel.training.pretrained import warm_start
from fed_rebel.training.setup import Setup
from fed_rebel.training.warm_start import WarmStart, build_model
from strategy.messages import Stage


@dataclass(frozen=True)
class Rebel:
    """The method `rebel`."""

    settings: Settings
    setup: Setup
    kept: Path
    """`warm_start.safetensors` of the run, there from the private start on."""
    warm_start: WarmStart
    """What the run begins with, or where it went on after the private start the one that is kept."""

    @classmethod
    def open(cls, settings: Settings, setup: Setup, run: RunDirectory) -> "Rebel":
        """For a new run, or to go on with one. Raises `ValueError` where there is no warm start as the settings say."""
        kept = run.path / WARM_START
        if run.rounds_done > settings.rounds.warm_start:  # the private start, which writes it, is finished
            return cls(settings, setup, kept, WarmStart.from_tensors(tensor_file.read(kept)))
        return cls(settings, setup, kept, warm_start(settings, setup.dataset, setup.base, setup.compute))

    @property
    def early_seed(self) -> int:
        """The warm start's."""
        return self.warm_start.early_seed

    def start(self) -> Tensors:
        """All parts."""
        return self.warm_start.tensors

    def private_start(self, state: Tensors) -> None:
        """Keep the warm start: newcomers and the global evaluation use it."""
        tensor_file.write(self.kept, WarmStart(state, self.early_seed).to_tensors())

    def sent(self, stage: Stage, state: Tensors) -> Tensors:
        """The parts that a stage trains or needs and a client does not have."""
        if stage is Stage.NEWCOMERS:  # the private parts as everybody began with them
            state = WarmStart.from_tensors(tensor_file.read(self.kept)).tensors | state
        return _only(sent_parts(stage, self.settings.head1), state)

    def shared(self, state: Tensors) -> Tensors:
        """Head2 and Tail, with `head1 = "shared"` Head1 too."""
        return _only(evaluated_parts(self.settings.head1), state)

    def balanced_accuracy(self, state: Tensors) -> float:
        """Of the shared part through the warm start's Head1 and its code."""
        model, device = self._warm_start_with(_only(SHARED, state)), self.setup.compute.device
        with torch.inference_mode(), self.setup.compute.autocast():
            said = [model.remote_logits(model.code.decode(sent.to(device))).argmax(1).cpu() for sent in self._sent]
        return float((torch.cat(said).numpy() == self.setup.dataset.test.labels).mean())

    @cached_property
    def _sent(self) -> list[torch.Tensor]:
        """What the warm start's device sends of all test images, which never changes: 867 bytes each, in batches."""
        model, data, compute = self._warm_start_with({}), self.setup.dataset, self.setup.compute
        with torch.inference_mode(), compute.autocast():
            return [
                model.code.encode(model.head1(images.to(compute.device)).mu).cpu()
                for images, _ in evaluation_batches(data, data.test, np.arange(len(data.test)))
            ]

    def _warm_start_with(self, shared: Tensors) -> Model:
        start = WarmStart.from_tensors(tensor_file.read(self.kept))
        classes, compute = len(self.setup.dataset.classes), self.setup.compute
        tensors = start.tensors | shared
        model = build_model(self.settings, self.setup.base, classes, start.early_seed, compute, tensors)
        return fold(model.eval())


def sent_parts(stage: Stage, head1: str) -> tuple[str, ...]:
    """The parts that the server sends in a stage: once a client has private parts of its own, none of those."""
    shared_head1 = ("head1",) if head1 == "shared" else ()
    return {
        Stage.WARM_START: (*PRIVATE, "head2"),
        Stage.PRIVATE_START: PRIVATE,
        Stage.DISTILL: ("head2", *shared_head1),
        Stage.PRIVATE_PASS: ("head2", *shared_head1),
        Stage.FINETUNE: evaluated_parts(head1),
        Stage.NEWCOMERS: (*PRIVATE, "head2"),
    }[stage]


def evaluated_parts(head1: str) -> tuple[str, ...]:
    """The server's parts once the warm start is over."""
    return ("head1", *SHARED) if head1 == "shared" else SHARED


def _only(parts: tuple[str, ...], state: Tensors) -> Tensors:
    return {name: tensor for name, tensor in state.items() if name.split(".")[0] in parts}
