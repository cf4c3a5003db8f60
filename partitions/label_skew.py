"""Label skew: how many images of each class each client holds.

Each function takes the `stock` (C,), the images there are of each class, and returns a table (clients, C)
whose columns sum to no more than it. Which images these are is not decided here.
"""

import numpy as np
from numpy.typing import NDArray

from partitions.apportion import largest_remainder
from partitions.dirichlet import log_dirichlet


def by_client(
    stock: NDArray[np.int64], sizes: NDArray[np.int64], alpha: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Each client draws its class prior from Dir(alpha), and its `sizes` (clients,) images by it.

    Hsu et al. 2019. Small alpha: few classes a client. The clients take one image each in turn: `take_turns`.
    """
    return take_turns(stock, sizes, log_dirichlet(alpha, (len(sizes), len(stock)), rng), rng)


def take_turns(
    stock: NDArray[np.int64],
    sizes: NDArray[np.int64],
    log_prior: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Deal `sizes` (clients,) images by each client's `log_prior` (clients, C), which need not be normalised.

    Clients take one image each in turn, without replacement, until each has its number; in all they take no
    more than the stock. The class is drawn from the client's prior; a class that has run out is removed from
    all priors, which are renormalised.

    All turns are drawn at once as if no class ran out. Then, as long as a class is asked for too often, the
    one that runs out first is removed and exactly the turns that ask for it in vain are drawn again from what
    is left. The other turns stand: given that it is not the removed class, a draw already has the
    renormalised distribution. So the result is distributed as if taken turn by turn, in at most C steps.
    """
    clients, classes = log_prior.shape
    log_prior = np.where(stock > 0, log_prior, -np.inf)
    left = stock.copy()
    turns: list[tuple[NDArray[np.int64], NDArray[np.unsignedinteger]]] = []
    client = _turn_order(sizes)
    wish = _draw_classes(log_prior, client, rng)
    while True:
        by_class = np.argsort(wish, kind="stable")
        wanted = np.bincount(wish, minlength=classes)
        start = np.cumsum(wanted) - wanted
        short = np.flatnonzero(wanted > left)
        if not len(short):
            taking, taken = (np.concatenate(parts) for parts in zip(*turns, (client, wish), strict=True))
            return _tabulate(taking, taken, clients, classes)
        in_vain = by_class[start[short] + left[short]]
        gone = short[np.argmin(in_vain)]
        now = in_vain.min()
        vain = by_class[start[gone] + left[gone] : start[gone] + wanted[gone]] - now
        # What was taken before now is settled.
        turns.append((client[:now], wish[:now]))
        left -= np.bincount(wish[:now], minlength=classes)
        client, wish = client[now:], wish[now:]
        log_prior[:, gone] = -np.inf
        wish[vain] = _draw_classes(log_prior, client[vain], rng)


def by_class(stock: NDArray[np.int64], clients: int, alpha: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Each class is split over the clients by Dir(alpha) (Yurochkin et al. 2019), all of the stock.

    Small alpha: a class goes to few clients; the clients' sizes become unequal too. The shares are used as
    drawn, not corrected towards equal sizes. A client that drew nothing is given one image, of a random
    class, by the client that is the largest at that moment: `stock` must have at least `clients` images.
    """
    shares = np.exp(log_dirichlet(alpha, (len(stock), clients), rng))
    table = largest_remainder(shares, stock).T.copy()
    sizes = table.sum(axis=1)
    for empty in np.flatnonzero(sizes == 0):
        largest = np.argmax(sizes)
        given = rng.choice(len(stock), p=table[largest] / sizes[largest])
        table[[largest, empty], given] += [-1, 1]
        sizes[[largest, empty]] += [-1, 1]
    return table


def iid(stock: NDArray[np.int64], sizes: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Each client holds a uniform sample, without replacement, of `sizes` (clients,) images."""
    labels = rng.permutation(np.repeat(np.arange(len(stock)), stock))[: sizes.sum()]
    return _tabulate(np.repeat(np.arange(len(sizes)), sizes), labels, len(sizes), len(stock))


def shards_of_classes(
    stock: NDArray[np.int64], sizes: NDArray[np.int64], classes_per_client: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Each client holds `classes_per_client` classes, its `sizes` (clients,) images spread evenly over them.

    The largest client chooses first; each takes the classes that have most images left, ties at random, and
    more of one where another is short. A client of fewer images than that has as many classes as images.

    Raises ValueError when a client cannot be given its number of images and classes.
    """
    table = np.zeros((len(sizes), len(stock)), dtype=np.int64)
    left = stock.copy()
    for client in np.argsort(-sizes, kind="stable"):
        size = int(sizes[client])
        number = min(classes_per_client, size)
        chosen = np.lexsort((rng.random(len(stock)), -left))[:number]
        if left[chosen].sum() < size or left[chosen[-1]] == 0:
            raise ValueError(
                f"partition.classes = {classes_per_client}: the classes cannot be dealt, no {number} of them "
                f"have {size} images left for client {client}; must be another, or partition.samples less"
            )
        owed = size
        # Scarcest class first, so that the others make up for what it lacks.
        for remaining, label in zip(range(number, 0, -1), reversed(chosen), strict=True):
            table[client, label] = min(left[label], owed // remaining)
            owed -= table[client, label]
        left -= table[client]
    return table


def _turn_order(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The client of each turn: 0, 1, ... once around for each image, those who have enough left out."""
    client = np.repeat(np.arange(len(sizes)), sizes)
    lap = np.arange(len(client)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return client[np.argsort(lap, kind="stable")]


def _draw_classes(
    log_prior: NDArray[np.float64], client: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.unsignedinteger]:
    """A class for each entry of `client` (n,), from that client's row of `log_prior`, by the inverse CDF.

    The rows' CDFs are laid end to end, row k from k to k + 1, so that one sorted search serves all entries.
    """
    rows, row = np.unique(client, return_inverse=True)
    weight = np.exp(log_prior[rows] - log_prior[rows].max(axis=1, keepdims=True))
    cdf = np.cumsum(weight, axis=1)
    cdf /= cdf[:, -1:]
    ends = (np.arange(len(rows))[:, np.newaxis] + cdf).ravel()
    # A number just under 1 must not round up into the next row.
    place = np.minimum(row + rng.random(len(row)), np.nextafter(row + 1.0, 0.0))
    drawn: NDArray[np.int64] = np.searchsorted(ends, place, side="right") - row * log_prior.shape[1]
    # NumPy sorts eight and sixteen bits by radix, and sorting is what `take_turns` spends its time on.
    return drawn.astype(np.min_scalar_type(log_prior.shape[1]))


def _tabulate(client: NDArray[np.integer], label: NDArray[np.integer], clients: int, classes: int) -> NDArray[np.int64]:
    return np.bincount(client * classes + label, minlength=clients * classes).reshape(clients, classes)
