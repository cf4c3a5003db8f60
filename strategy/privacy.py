"""Differential privacy of the shared parameters, at the level of a client: Flower's clipping, noise and accountant."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from flwr.serverapp import strategy as flower
from flwr.supercore.differential_privacy import compute_stdv
from flwr.supercore.privacy_accounting import (
    GaussianPrivacyEvent,
    NeighboringRelation,
    PrivacyConfig,
    SamplingMethod,
)
from flwr.supercore.privacy_accounting.rdp_accountant import RdpAccountant
from torch import nn

from fed_rebel.settings import Settings
from fed_rebel.tensor_file import Tensors
from strategy.fedavg import AtClient, FedAvg
from strategy.flower import WEIGHT, aggregated, arrays_of, message_of
from strategy.messages import Reply, Stage
from strategy.plan import plan
from strategy.rounds import RunFailed

RELEASING = (Stage.DISTILL, Stage.FINETUNE, Stage.WHOLE)
"""The stages whose rounds give the clients' mean away."""


class Private(FedAvg):
    """Federated averaging of changes clipped to `strategy.clip`, with Gaussian noise on their sum (McMahan et al. 2018,
    "Learning differentially private recurrent language models", Alg. 1) whose standard deviation is
    `strategy.noise_multiplier` * `strategy.clip`.

    It takes the place of the server's side of another strategy, and leaves that one's at the clients as it is.
    """

    def __init__(self, of: FedAvg) -> None:
        super().__init__(of.settings, of.round)
        self.of = of

    def at_client(
        self, parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer, beside: Tensors, kept: Tensors
    ) -> AtClient:
        """The other strategy's."""
        return self.of.at_client(parameters, optimiser, beside, kept)

    def aggregate(self, current: Tensors, replies: Sequence[Reply], memory: Tensors) -> tuple[Tensors, Tensors]:
        """The noisy mean. Raises `RunFailed` where a client of the round is missing: the noise is for all of them."""
        expected = trainees(self.settings, self.round)
        if len(replies) != expected:
            raise RunFailed(
                f"round {self.round + 1}: {len(replies)} of {expected} clients gave a good reply; with "
                "strategy.noise_multiplier above 0 all must"
            )
        chosen, accountant = self.settings.strategy, account(self.settings, self.round)
        averaging = flower.FedAvg(weighted_by_key=WEIGHT)
        private = _Seeded(averaging, chosen.noise_multiplier, chosen.clip, expected, accountant=accountant)
        private.rng = np.random.default_rng(
            np.random.SeedSequence([self.settings.seed, self.round], spawn_key=tuple(b"privacy"))
        )
        private.current_arrays = arrays_of(current)
        try:
            return private.average(current, replies), memory
        except ZeroDivisionError:
            raise RunFailed(
                f"round {self.round + 1}: what a client shares has not moved, and Flower divides by the way that it "
                "went; train it, or set strategy.noise_multiplier = 0"
            ) from None

    def numbers(self) -> dict[str, float]:
        """The (epsilon, delta) that is spent by the end of the round, in all rounds together."""
        spent = account(self.settings, self.round + 1).get_privacy_spent()
        return {"epsilon": spent.epsilon, "delta": spent.delta}


class _Seeded(flower.DifferentialPrivacyServerSideFixedClipping):
    """With noise from a generator of ours: Flower's comes from NumPy's global state, and no run could be repeated."""

    rng: np.random.Generator

    def average(self, current: Tensors, replies: Sequence[Reply]) -> Tensors:
        """One round."""
        # Flower counts a release where it sends the orders of its round, which here are sent and answered already.
        self._prepare_accounting(1, [message_of(reply, current) for reply in replies])
        return aggregated(self, current, replies)

    def _add_noise_to_aggregated_arrays(self, aggregated_arrays: ArrayRecord) -> ArrayRecord:
        deviation = compute_stdv(self.noise_multiplier, self.clipping_norm, self.num_sampled_clients)
        arrays = {name: array.numpy() for name, array in aggregated_arrays.items()}
        return ArrayRecord({name: Array(a + self.rng.normal(0, deviation, a.shape)) for name, a in arrays.items()})


def account(settings: Settings, rounds: int) -> RdpAccountant:
    """What the first rounds of a run have spent: a function of the settings, so that it survives every stop.

    A client more or less, and no benefit from drawing some clients of all (`strategy.fraction`): Flower's accountant
    has none for what these strategies do.
    """
    members = settings.partition.members
    accountant = RdpAccountant(
        PrivacyConfig(
            target_delta=settings.strategy.delta,
            population_size=members,
            neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
            sampling_method=SamplingMethod.NO_AMPLIFICATION,
        )
    )
    for step in plan(settings)[:rounds]:
        if step.stage in RELEASING:
            sample = trainees(settings, step.number)
            accountant.compose(GaussianPrivacyEvent(settings.strategy.noise_multiplier, sample, members))
    return accountant


def trainees(settings: Settings, round: int) -> int:
    """How many clients train in a round."""
    members = settings.partition.members
    return members if plan(settings)[round].everyone else settings.strategy.chosen_of(members)
