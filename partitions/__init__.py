"""Dealing data to clients: arrays of labels in, arrays of indices out.

"Dirichlet alpha" has two dialects, and results under one say nothing of the other:

* `by-client` (Hsu et al. 2019): each *client* draws its class prior from Dir(alpha) and takes its images by
  it, one each in turn, without replacement. Alpha changes which classes a client holds, never how many
  images.
* `by-class` (Yurochkin et al. 2019): each *class* is split over the clients by Dir(alpha). Alpha changes
  which classes a client holds and how many images too.

So name the dialect, and show the realised skew (`gini`) wherever alpha is shown. Beside them stand `iid` (a
uniform sample each) and `shards` (a fixed number of classes a client). Sizes can be skewed on their own
(`client_sizes`).

`deal` ties it together and gives a `Partition` of `Shard`s, saved and loaded, and told by its fingerprint.
"""

from partitions.deal import ALPHA_RANGE, KINDS, MOST_CLIENTS, Kind, deal
from partitions.hold_out import hold_out
from partitions.label_skew import by_class, by_client, iid, shards_of_classes
from partitions.partition import Partition, Shard
from partitions.quantity import QUANTITIES, Quantity, client_sizes
from partitions.skew import effective_classes, gini, label_histogram, smoothed_shares

__all__ = [
    "ALPHA_RANGE",
    "KINDS",
    "MOST_CLIENTS",
    "QUANTITIES",
    "Kind",
    "Partition",
    "Quantity",
    "Shard",
    "by_class",
    "by_client",
    "client_sizes",
    "deal",
    "effective_classes",
    "gini",
    "hold_out",
    "iid",
    "label_histogram",
    "shards_of_classes",
    "smoothed_shares",
]
