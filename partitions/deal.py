"""Deal a data set to clients."""

from enum import IntEnum
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from partitions import label_skew
from partitions.apportion import largest_remainder
from partitions.hold_out import hold_out
from partitions.partition import Partition, Shard
from partitions.pool import Pool
from partitions.quantity import QUANTITIES, Quantity, client_sizes

Kind = Literal["by-client", "by-class", "iid", "shards"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ALPHA_RANGE = (1e-4, 1e4)
MOST_CLIENTS = 1000
MOST_EVALUATED = 1000


class _Purpose(IntEnum):
    """A random stream for each, so that a change to one draw leaves the others alone."""

    SIZES = 1
    LABELS = 2
    TRAIN = 3
    VAL = 4
    TEST = 5


def deal(
    train_labels: NDArray[np.integer],
    test_labels: NDArray[np.integer],
    *,
    classes: int,
    kind: Kind,
    clients: int,
    alpha: float,
    samples: int,
    classes_per_client: int,
    quantity: Quantity,
    quantity_skew: float,
    seed: int,
) -> Partition:
    """Deal the training set, without its hold-out, to clients.

    train_labels, test_labels: (n,) and (m,), whole numbers in [0, classes).
    kind: see the package's docstring.
    alpha: of the Dirichlet draw, in [1e-4, 1e4]; no effect on iid and shards.
    clients: 1 to 1000.
    samples: mean images a client; 0 deals all that are available. by-class splits a stratified draw of
        clients * samples images, so that runs of all kinds see the same amount of data.
    classes_per_client: 1 to `classes`; of shards alone.
    quantity, quantity_skew: see `client_sizes`; by-class, whose sizes come from its draw, takes "equal".
    seed: >= 0; the result is a function of it and the other arguments.

    A client's validation shard is drawn from the hold-out and its test shard from the test set, both with the
    label shares of its training shard and as large as these allow, at most 1,000 images.

    Raises ValueError, in one line that names the key, the value and what is allowed.
    """
    train_labels, test_labels = np.asarray(train_labels), np.asarray(test_labels)
    _check(kind, clients, alpha, samples, classes_per_client, quantity, classes, seed)
    available, held = hold_out(train_labels, classes)
    everything = np.arange(len(test_labels))
    _check_images(clients, samples, len(available), len(held), len(everything))

    total = clients * samples or len(available)
    train = Pool.shuffled(train_labels, available, classes, _stream(seed, _Purpose.TRAIN))
    sizes = client_sizes(quantity, total, clients, quantity_skew, _stream(seed, _Purpose.SIZES))
    rng = _stream(seed, _Purpose.LABELS)
    if kind == "by-client":
        counts = label_skew.by_client(train.stock, sizes, alpha, rng)
    elif kind == "by-class":
        counts = label_skew.by_class(largest_remainder(train.stock, total), clients, alpha, rng)
    elif kind == "iid":
        counts = label_skew.iid(train.stock, sizes, rng)
    else:
        counts = label_skew.shards_of_classes(train.stock, sizes, classes_per_client, rng)

    one_after_another = np.cumsum(counts, axis=0) - counts
    trained_on = train.take(counts, one_after_another)
    validated_on = draw_alike(counts, train_labels, held, _stream(seed, _Purpose.VAL))
    tested_on = draw_alike(counts, test_labels, everything, _stream(seed, _Purpose.TEST))
    parts = zip(range(clients), trained_on, validated_on, tested_on, strict=True)
    return Partition(tuple(Shard(*fields) for fields in parts), held, counts)


def draw_alike(
    counts: NDArray[np.int64],
    labels: NDArray[np.integer],
    images: NDArray[np.int64],
    rng: np.random.Generator,
    limit: int = MOST_EVALUATED,
) -> list[NDArray[np.int64]]:
    """For each client a sample of `images` with the label shares of its row of `counts` (clients, C).

    It has min(limit, min_c floor(images of class c / share of class c)) images, no image twice, rounded to
    whole images by the largest remainder; clients may share images. A class with no image in `images` is left
    out and the other shares renormalised; a client all of whose classes are left out gets one image, of the
    commonest class. `images`, indices into `labels`, must not be empty, so neither is any sample.
    """
    pool = Pool.shuffled(labels, images, counts.shape[1], rng)
    wanted = np.where(pool.stock > 0, counts, 0)
    matched = wanted.any(axis=1)
    wanted[~matched] = pool.stock
    # In whole numbers floor(stock / share) is exact.
    allowed = pool.stock * wanted.sum(axis=1, keepdims=True) // np.maximum(wanted, 1)
    most = np.where(wanted > 0, allowed, limit).min(axis=1)
    numbers = np.where(matched, np.minimum(limit, most), 1)
    offsets = (rng.random(counts.shape) * pool.stock).astype(np.int64)
    return pool.take(largest_remainder(wanted, numbers), offsets)


def _stream(seed: int, purpose: _Purpose) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, purpose]))


def _check(
    kind: str,
    clients: int,
    alpha: float,
    samples: int,
    classes_per_client: int,
    quantity: str,
    classes: int,
    seed: int,
) -> None:
    lowest, highest = ALPHA_RANGE
    if kind not in KINDS:
        raise ValueError(f"partition.kind = {kind!r}: must be one of {', '.join(KINDS)}")
    if not lowest <= alpha <= highest:  # not a number fails too
        raise ValueError(f"partition.alpha = {alpha}: must be a number from {lowest:g} to {highest:g}")
    if not 1 <= clients <= MOST_CLIENTS:
        raise ValueError(f"partition.clients = {clients}: must be from 1 to {MOST_CLIENTS}")
    if samples < 0:
        raise ValueError(f"partition.samples = {samples}: must be 0, for all available images, or more")
    if seed < 0:
        raise ValueError(f"seed = {seed}: must be 0 or more")
    if kind == "shards" and not 1 <= classes_per_client <= classes:
        raise ValueError(f"partition.classes = {classes_per_client}: must be from 1 to {classes}")
    if kind == "shards" and 0 < samples < classes_per_client:
        raise ValueError(
            f"partition.samples = {samples}: must be at least partition.classes = {classes_per_client}, or 0"
        )
    if quantity not in QUANTITIES:
        raise ValueError(f"partition.quantity = {quantity!r}: must be one of {', '.join(QUANTITIES)}")
    if kind == "by-class" and quantity != "equal":
        raise ValueError(
            f'partition.quantity = {quantity!r}: must be "equal" with partition.kind = "by-class", '
            "whose sizes come from its own draw"
        )


def _check_images(clients: int, samples: int, available: int, held: int, tests: int) -> None:
    needed = clients * max(samples, 1)
    if needed > available:
        raise ValueError(
            f"partition.clients = {clients} with partition.samples = {samples}: {needed} images are needed; "
            f"must be at most the {available} available outside the hold-out"
        )
    if held == 0:
        raise ValueError("the hold-out has 0 images: must be more, so some class needs at least 4 training images")
    if tests == 0:
        raise ValueError("the test set has 0 images: must be at least 1")
