"""What the rounds did, from `rounds.jsonl`."""

import json
import math
from pathlib import Path

import pandas as pd

ACCURACIES = ("local_acc", "remote_acc", "overall_acc")
BAND = (0.1, 0.9)
"""The quantiles over clients between which a band lies: all but the lowest and the highest tenth."""


def read_rounds(path: Path) -> pd.DataFrame:
    """The rows of `rounds.jsonl`, a row per client and round; empty where there is no such file.

    The last line of a run that was killed may be cut short: a line that is not JSON ends the reading. A round
    that was run again after a resume counts once, as it was run last.
    """
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            break
        rows.append(row)
    measured = [*ACCURACIES, "balanced_acc", "bytes_up", "bytes_down", "epsilon", "delta"]
    rounds = pd.DataFrame(rows).reindex(columns=["stage", "round", "client", *measured])
    rounds[measured] = rounds[measured].astype(float)  # a metric that no round has would be of type object
    return rounds.drop_duplicates(["stage", "round", "client"], keep="last")


def accuracies(rounds: pd.DataFrame) -> pd.DataFrame:
    """A row an evaluated round, in the order of running: of each accuracy the plain mean over clients, as `<name>`, and
    the quantiles of `BAND`, as `<name>_low` and `<name>_high`."""
    by_round = rounds.groupby(["stage", "round"], sort=False)[list(ACCURACIES)]
    low, high = (by_round.quantile(quantile) for quantile in BAND)
    table = pd.concat([by_round.mean(), low.add_suffix("_low"), high.add_suffix("_high")], axis=1)
    return table.dropna(how="all").reset_index()


def privacy(rounds: pd.DataFrame) -> str:
    """What the noise of `strategy.noise_multiplier` came to, in one sentence; empty where there was none."""
    epsilon, delta = rounds["epsilon"].max(), rounds["delta"].max()
    if math.isnan(epsilon):
        return ""
    return (
        f"The shared parameters of all rounds are ({epsilon:.3g}, {delta:g})-differentially private for each client, "
        "towards whoever does not know the seed."
    )
