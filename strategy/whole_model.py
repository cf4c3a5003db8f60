"""The baselines without an early exit on the server: the whole base model, all of it shared, all but the last layer,
or nothing."""

from dataclasses import dataclass

from fed_rebel.model.resnet import BaseModel
from fed_rebel.model.twin import twin
from fed_rebel.settings import Settings
from fed_rebel.tensor_file import Tensors
from fed_rebel.training.predict import accuracy_on_test
from fed_rebel.training.setup import Setup
from fed_rebel.training.stages import batch_norm_statistics
from strategy.messages import Stage

LAST_LAYER = "tail.fc."


def shared_names(model: BaseModel, settings: Settings) -> set[str]:
    """The tensors of the base model that a method shares; the others are each client's own.

    `fedavg` (McMahan et al. 2017): all. `fedper` (Arivazhagan et al. 2019, with one personal layer): all but the last
    linear layer. `local`: none. With `base.batch_norm = "local"` its statistics are the client's own as well.
    """
    if settings.method == "local":
        return set()
    names = set(model.state_dict())
    if settings.method == "fedper":
        names = {name for name in names if not name.startswith(LAST_LAYER)}
    return names - batch_norm_statistics(model) if settings.base.batch_norm == "local" else names


@dataclass(frozen=True)
class WholeModel:
    """The methods `fedavg`, `fedper` and `local`. They start from the base model, which every client has."""

    settings: Settings
    setup: Setup
    early_seed: int = 0
    """There is no early classifier."""

    def start(self) -> Tensors:
        """The base model's tensors that are shared."""
        names = shared_names(self.setup.base, self.settings)
        tensors = self.setup.base.state_dict()
        return {name: tensor.cpu().contiguous() for name, tensor in tensors.items() if name in names}

    def private_start(self, state: Tensors) -> None:
        """Nothing to keep: the base model is found by the settings."""

    def sent(self, stage: Stage, state: Tensors) -> Tensors:
        """All that is shared, but for the private start: a client takes its private part from the base model."""
        return {} if stage is Stage.PRIVATE_START else state

    def shared(self, state: Tensors) -> Tensors:
        """All of it."""
        return state

    def balanced_accuracy(self, state: Tensors) -> float | None:
        """Of the global model, which `fedavg` alone has."""
        if self.settings.method != "fedavg":
            return None
        model = twin(self.setup.base)
        model.load_state_dict(model.state_dict() | state)
        return accuracy_on_test(self.setup.compute.place(model).eval(), self.setup.dataset, self.setup.compute)
