"""How long a batch of queries takes from the device's first operation to its last answer (Sec. VI-D)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fed_rebel.exits import Target
from fed_rebel.model.heads import CODE_SIZE

BATCH = 64
"""Queries in the paper's batch."""


@dataclass(frozen=True)
class Link:
    """Between device and server."""

    bandwidth: float
    """Bits a second, above 0."""
    round_trip: float = 0.02
    """Propagation there and back, in seconds; the paper's is 10 ms each way."""

    def __post_init__(self) -> None:
        if not self.bandwidth > 0:
            raise ValueError(f"bandwidth = {self.bandwidth}: must be above 0 bits a second")
        if not self.round_trip >= 0:
            raise ValueError(f"round_trip = {self.round_trip}: must be 0 s or more")


@dataclass(frozen=True)
class Delay:
    """The three parts of a batch's delay, in seconds."""

    device: float
    network: float
    server: float

    @property
    def total(self) -> float:
        """One after the other."""
        return self.device + self.network + self.server


@dataclass(frozen=True)
class Batch:
    """A batch of queries, and what it takes to answer it."""

    queries: int
    """At least 1."""
    size: int
    """Bytes sent for each query that the device does not answer."""
    device: float
    """Seconds that the device works on all of it."""
    server: float
    """Seconds that the server would work on all of it; it works on what it is sent."""


def delay(batch: Batch, coverage: float, link: Link) -> Delay:
    """The mean delay of a batch of which the device answers `coverage`, in [0, 1].

    Where nothing is sent the link is not used. Raises ValueError for another coverage.
    """
    if not 0 <= coverage <= 1:
        raise ValueError(f"coverage = {coverage}: must be from 0 to 1")
    sent = 1 - coverage
    network = 8 * batch.size * batch.queries * sent / link.bandwidth + link.round_trip if sent else 0.0
    return Delay(batch.device, network, batch.server * sent)


def least_coverage(batch: Batch, budget: float, link: Link) -> float:
    """The smallest coverage, in [0, 1], at which the batch takes `budget` seconds at most.

    Raises ValueError where the device alone takes longer.
    """
    if batch.device > budget:
        raise ValueError(f"a delay of {budget:g} s: the device alone works {batch.device:g} s; allowed: that or more")
    on_the_way = 8 * batch.size * batch.queries / link.bandwidth + batch.server
    return min(1.0, max(0.0, 1 - (budget - batch.device - link.round_trip) / on_the_way))


def in_time(target: Target, exits: Mapping[str, Any]) -> Target:
    """A delay budget with the smallest coverage at which a batch of codes meets it; other targets as they are.

    `exits` are the settings of that name. Raises ValueError where the device alone takes longer.
    """
    if target.kind != "delay" or target.value is None:
        return target
    batch = Batch(BATCH, CODE_SIZE, exits["device_time"], exits["server_time"])
    link = Link(exits["bandwidth"] * 1e6, exits["round_trip"])
    return replace(target, least=least_coverage(batch, target.value, link))


def network_load(devices: int, rate: float, size: int, coverage: float = 0.0) -> float:
    """Bits a second that `devices` send which each meet `rate` queries a second, of `size` bytes each."""
    return 8 * devices * rate * size * (1 - coverage)
