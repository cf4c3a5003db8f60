"""Quantity skew: how many images each client holds."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from partitions.apportion import largest_remainder
from partitions.dirichlet import log_dirichlet

Quantity = Literal["equal", "dirichlet", "log-normal"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
SKEW_RANGES = {"dirichlet": (1e-4, 1e4), "log-normal": (0.0, 10.0)}


def client_sizes(
    quantity: Quantity, total: int, clients: int, skew: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Sizes (clients,) that sum to `total` exactly, each at least 1; `total` >= `clients`.

    `equal`: the same for all, the first ones get one more where `total` does not divide. `dirichlet`: shares
    from Dir(skew), skew in [1e-4, 1e4], small is unequal. `log-normal`: shares proportional to
    exp(skew N(0, 1)), skew in [0, 10], large is unequal. Every client has one image before the shares divide
    the others.

    Raises ValueError for an unknown quantity or a skew out of range.
    """
    if quantity not in QUANTITIES:
        raise ValueError(f"partition.quantity = {quantity!r}: must be one of {', '.join(QUANTITIES)}")
    if quantity == "equal":
        return largest_remainder(np.ones(clients), total)
    lowest, highest = SKEW_RANGES[quantity]
    if not lowest <= skew <= highest:  # not a number fails too
        raise ValueError(f"partition.quantity_skew = {skew}: must be from {lowest:g} to {highest:g} for {quantity}")
    if quantity == "dirichlet":
        log_shares = log_dirichlet(skew, (clients,), rng)
    else:
        log_shares = skew * rng.standard_normal(clients)
    return 1 + largest_remainder(np.exp(log_shares - log_shares.max()), total - clients)
