"""Averages that some wrong replies cannot carry away; each is Flower's own. None of them remembers anything."""

from collections.abc import Sequence

from flwr.serverapp import strategy as flower

from fed_rebel.tensor_file import Tensors
from strategy.fedavg import FedAvg
from strategy.flower import WEIGHT, aggregated
from strategy.messages import Reply
from strategy.rounds import RunFailed


class FedMedian(FedAvg):
    """The median of the clients, parameter by parameter (Yin et al. 2018, Def. 1); weights do not matter."""

    def aggregate(self, current: Tensors, replies: Sequence[Reply], memory: Tensors) -> tuple[Tensors, Tensors]:
        """The median; of an even number of clients the mean of the middle two."""
        return aggregated(flower.FedMedian(weighted_by_key=WEIGHT), current, replies), memory


class FedTrimmedAvg(FedAvg):
    """The plain mean without `strategy.trimmed` of the clients at each end, parameter by parameter (Yin et al. 2018,
    Def. 2); weights do not matter."""

    def aggregate(self, current: Tensors, replies: Sequence[Reply], memory: Tensors) -> tuple[Tensors, Tensors]:
        """The mean of the middle ones."""
        trimmed = flower.FedTrimmedAvg(weighted_by_key=WEIGHT, beta=self.settings.strategy.trimmed)
        return aggregated(trimmed, current, replies), memory


class Krum(FedAvg):
    """The one client that lies nearest to its n - `strategy.malicious` - 2 nearest (Blanchard et al. 2017, Sec. 4)."""

    def aggregate(self, current: Tensors, replies: Sequence[Reply], memory: Tensors) -> tuple[Tensors, Tensors]:
        """That client's parameters. Raises `RunFailed` where too few replied to outnumber the malicious."""
        _check_enough(self, replies)
        krum = flower.Krum(weighted_by_key=WEIGHT, num_malicious_nodes=self.settings.strategy.malicious)
        return aggregated(krum, current, replies), memory


class MultiKrum(FedAvg):
    """The weighted mean of Krum's first n - `strategy.malicious` clients (Blanchard et al. 2017, Sec. 4)."""

    def aggregate(self, current: Tensors, replies: Sequence[Reply], memory: Tensors) -> tuple[Tensors, Tensors]:
        """The mean of these. Raises `RunFailed` where too few replied to outnumber the malicious."""
        _check_enough(self, replies)
        malicious = self.settings.strategy.malicious
        selected = max(1, len(replies) - malicious)
        krum = flower.MultiKrum(weighted_by_key=WEIGHT, num_malicious_nodes=malicious, num_nodes_to_select=selected)
        return aggregated(krum, current, replies), memory


def _check_enough(krum: Krum | MultiKrum, replies: Sequence[Reply]) -> None:
    chosen = krum.settings.strategy
    if len(replies) < (needed := 2 * chosen.malicious + 3):
        raise RunFailed(
            f"round {krum.round + 1}: {len(replies)} good replies; strategy.name = '{chosen.name}' with "
            f"strategy.malicious = {chosen.malicious} needs {needed}"
        )
