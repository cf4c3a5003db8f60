"""Who takes part in a round: drawn from the seed and the round alone, so that a run can be repeated."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from fed_rebel.settings import Settings


@dataclass(frozen=True)
class Participation:
    """The clients that were chosen for a round, each in one of three lists, in their order."""

    on_time: list[int]
    """They train, and their replies are used."""
    late: list[int]
    """They train, and their replies come after the round."""
    failed: list[int]
    """They do not train."""

    @property
    def trained(self) -> list[int]:
        """Those that are sent an order."""
        return sorted(self.on_time + self.late)


def draw(settings: Settings, sizes: Mapping[int, int], number: int) -> Participation:
    """Choose clients for a round, and let some of them fail or be late, as the settings say.

    `strategy.least` of those that were chosen always answer in time. `sizes` are the training images of the clients
    there are to choose from.
    """
    strategy, seed = settings.strategy, settings.seed
    chosen = choose_clients(settings, sizes, number)
    luck = {}
    for what in ("dropout", "late"):
        draws = _generator(seed, number, what).random(settings.partition.clients)
        luck[what] = {client: float(draws[client]) for client in chosen}
    failed = _unlucky(luck["dropout"], strategy.dropout, strategy.least)
    there = {client: draw for client, draw in luck["late"].items() if client not in failed}
    late = _unlucky(there, strategy.late, strategy.least)
    on_time = [client for client in chosen if client not in failed and client not in late]
    return Participation(on_time, sorted(late), sorted(failed))


def choose_clients(settings: Settings, sizes: Mapping[int, int], number: int) -> list[int]:
    """The share `strategy.fraction` of the clients, `strategy.least` at least; in proportion to their images where
    `strategy.sampling` says so, without replacement."""
    strategy, clients = settings.strategy, sorted(sizes)
    images = np.array([sizes[client] for client in clients], dtype=np.float64)
    p = images / images.sum() if strategy.sampling == "size" else None
    chosen = _generator(settings.seed, number, "clients").choice(
        len(clients), size=strategy.chosen_of(len(clients)), replace=False, p=p
    )
    return sorted(clients[place] for place in chosen)


def _unlucky(draws: Mapping[int, float], probability: float, spared: int) -> Collection[int]:
    """Those whose draw is below the probability; the luckiest, `spared` of them, never."""
    by_luck = sorted(draws, key=lambda client: (-draws[client], client))
    return {client for client in by_luck[spared:] if draws[client] < probability}


def _generator(seed: int, number: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, number], spawn_key=tuple(purpose.encode())))
