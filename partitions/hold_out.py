"""The training images that belong to nobody."""

import numpy as np
from numpy.typing import NDArray

from partitions.pool import Pool

# Not the run's seed: every run on the same data holds out the same images, so a base model trained without
# them can be shared by runs of all seeds.
_SEED = 0


def hold_out(
    labels: NDArray[np.integer], classes: int, per_class: int = 50
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split a training set into images to deal and images held out of all training: `(available, held)`.

    Of each of the `classes` classes min(`per_class`, n_c // 4) of its n_c images are held out. The split is
    a function of `labels` (n,) alone. Both results are ascending indices; together they are 0..n-1.

    Raises ValueError for labels outside 0..classes-1.
    """
    labels = np.asarray(labels)
    everything = np.arange(len(labels))
    pool = Pool.shuffled(labels, everything, classes, np.random.default_rng(_SEED))
    counts = np.minimum(per_class, pool.stock // 4)[np.newaxis]
    (held,) = pool.take(counts, np.zeros_like(counts))
    return np.setdiff1d(everything, held, assume_unique=True), held
