"""An optimiser on the server takes the clients' mean change for a gradient; each is Flower's own."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy.fedopt import FedOpt
from numpy.typing import NDArray

from fed_rebel import tensor_file
from fed_rebel.tensor_file import Tensors
from strategy.fedavg import FedAvg
from strategy.flower import WEIGHT, aggregated, arrays_of
from strategy.messages import Reply


class FedAvgM(FedAvg):
    """SGD with momentum (Hsu et al. 2019, Sec. 4.3): v = `strategy.momentum` v + d, w + `strategy.server_rate` v."""

    def aggregate(self, current: Tensors, replies: Sequence[Reply], memory: Tensors) -> tuple[Tensors, Tensors]:
        """One step. -v is remembered."""
        chosen = self.settings.strategy
        optimiser = flower.FedAvgM(
            weighted_by_key=WEIGHT,
            server_learning_rate=chosen.server_rate or 1.0,
            server_momentum=chosen.momentum,
        )
        optimiser.current_arrays = arrays_of(current)
        names = list(optimiser.current_arrays)
        if memory:
            optimiser.momentum_vector = [memory[name].double().numpy() for name in names]
        moved = aggregated(optimiser, current, replies)
        if optimiser.momentum_vector is None:  # without momentum there is nothing to remember
            return moved, {}
        return moved, _kept(dict(zip(names, optimiser.momentum_vector, strict=True)), current)


class Adaptive(FedAvg):
    """Reddi et al. 2021, Alg. 2: a step of `strategy.server_rate` m / (sqrt(v) + `strategy.tau`) with m and v of the
    rounds' mean changes.

    Where tau is well above the changes, the default rates leave them as averaging has them: rate (1 - beta_1) = tau.
    """

    def optimiser(self) -> FedOpt:
        """Flower's, with the settings'."""
        raise NotImplementedError

    def aggregate(self, current: Tensors, replies: Sequence[Reply], memory: Tensors) -> tuple[Tensors, Tensors]:
        """One step. m, v and the number of the stage's rounds are remembered."""
        optimiser = self.optimiser()
        rounds = int(memory.get("rounds", torch.tensor(0))) + 1
        optimiser.current_arrays = _arrays(current)
        optimiser.m_t, optimiser.v_t = (_arrays(tensor_file.part(moment, memory)) for moment in ("m", "v"))
        moved = aggregated(optimiser, current, replies, rounds)
        m, v = (_kept(moment or {}, current) for moment in (optimiser.m_t, optimiser.v_t))
        return moved, tensor_file.prefixed("m", m) | tensor_file.prefixed("v", v) | {"rounds": torch.tensor(rounds)}


class FedAdam(Adaptive):
    """v = beta_2 v + (1 - beta_2) d^2, and Adam's correction of the first rounds, which Flower counts from 2."""

    of_flower: type[flower.FedAdam | flower.FedYogi] = flower.FedAdam

    def optimiser(self) -> FedOpt:
        """With beta_1 and beta_2."""
        chosen = self.settings.strategy
        return self.of_flower(
            weighted_by_key=WEIGHT,
            eta=chosen.server_rate or 0.01,
            beta_1=chosen.momentum,
            beta_2=chosen.second_moment,
            tau=chosen.tau,
        )


class FedYogi(FedAdam):
    """v = v - (1 - beta_2) d^2 sign(v - d^2): it grows as fast as Adam's and falls slower."""

    of_flower = flower.FedYogi


class FedAdagrad(Adaptive):
    """v = v + d^2, and no momentum."""

    def optimiser(self) -> FedOpt:
        """Without either beta."""
        chosen = self.settings.strategy
        return flower.FedAdagrad(weighted_by_key=WEIGHT, eta=chosen.server_rate or 0.001, tau=chosen.tau)


def _arrays(tensors: Tensors) -> dict[str, NDArray[Any]]:
    return {name: array.numpy() for name, array in arrays_of(tensors).items()}


def _kept(moment: Mapping[str, NDArray[Any]], current: Tensors) -> Tensors:
    """As large as the parameters themselves. Every round reads it back from here, so that a stop changes nothing."""
    return {name: torch.from_numpy(array).to(current[name].dtype) for name, array in moment.items()}
