"""How long a batch of queries takes from the device's first operation to its last answer (Sec. VI-D)."""

from dataclasses import dataclass


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


def delay(batch: int, coverage: float, size: int, link: Link, device: float, server: float) -> Delay:
    """The mean delay of a batch.

    Args:
        batch: queries, at least 1.
        coverage: the share of them that the device answers, in [0, 1].
        size: bytes sent for each of the others.
        link: to the server.
        device: seconds that the device works on the batch.
        server: seconds that the server would work on all of it; it works on what it is sent.

    Where nothing is sent the link is not used.
    """
    if not 0 <= coverage <= 1:
        raise ValueError(f"coverage = {coverage}: must be from 0 to 1")
    sent = 1 - coverage
    network = 8 * size * batch * sent / link.bandwidth + link.round_trip if sent else 0.0
    return Delay(device, network, server * sent)


def network_load(devices: int, rate: float, size: int, coverage: float = 0.0) -> float:
    """Bits a second that `devices` send which each meet `rate` queries a second, of `size` bytes each."""
    return 8 * devices * rate * size * (1 - coverage)
