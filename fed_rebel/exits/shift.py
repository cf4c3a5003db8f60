"""A client whose world changes: a share of its queries comes from classes that its shard does not hold.

Mixtures are exact, not drawn: at share s every measure is (1 - s) times that of the client's own queries plus s times
that of the queries from outside.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fed_rebel.exits.calibrate import threshold_after
from fed_rebel.exits.outcomes import Outcomes, Thresholds
from fed_rebel.exits.rows import FEWEST_TO_CALIBRATE

SHARES = tuple(round(0.1 * tenth, 1) for tenth in range(11))
COLUMNS = ("client", "share", "kind", "threshold", "answered", "wrong_alone", "overall")


def shift_rows(
    predictions: pd.DataFrame,
    thresholds: Mapping[int, Thresholds],
    *,
    remote: str = "remote_label",
    shares: Sequence[float] = SHARES,
) -> pd.DataFrame:
    """What each client does at each share of outside queries: a row a client, share and threshold.

    `predictions` has the rows of `predictions.parquet`, `remote` names the column of the server's answers, `thresholds`
    holds by client those that the run calibrated on the client's own validation queries. Columns: `client`; `share` in
    [0, 1]; `kind`, "as calibrated", or "best for the share": the best overall accuracy on validation queries mixed at
    the same share (of all clients where the client has fewer than 50 of its own); `threshold`, without those of
    labels; and of all test queries `answered`, answered alone; `wrong_alone`, from outside and answered alone and
    wrongly; `overall`, answered rightly.

    Clients without both `test_outside` and `val_outside` rows are left out; of a run that has none the table is empty.
    """
    by_split = dict(tuple(predictions.groupby("split")))
    if not {"val", "test", "val_outside", "test_outside"} <= set(by_split):
        return pd.DataFrame(columns=list(COLUMNS), dtype=float)

    def outcomes(split: str, client: object = None) -> Outcomes:
        rows = by_split[split]
        return Outcomes.of(rows if client is None else rows[rows["client"] == client], remote)

    pooled = {share: best_threshold(outcomes("val"), outcomes("val_outside"), share) for share in shares}
    rows = []
    for client, calibrated in thresholds.items():
        own, foreign = outcomes("test", client), outcomes("test_outside", client)
        val, val_foreign = outcomes("val", client), outcomes("val_outside", client)
        if not len(foreign) or not len(val_foreign):
            continue
        few = min(len(val), len(val_foreign)) < FEWEST_TO_CALIBRATE
        for share in shares:
            renewed = pooled[share] if few else best_threshold(val, val_foreign, share)
            for kind, at in (("as calibrated", calibrated), ("best for the share", Thresholds(renewed))):
                about = {"client": client, "share": share, "kind": kind, "threshold": at.common}
                rows.append(about | _mixed(own, foreign, at, share))
    return pd.DataFrame(rows)


def best_threshold(own: Outcomes, outside: Outcomes, share: float) -> float:
    """The threshold with the highest (1 - share) * overall accuracy of `own` + share * that of `outside`.

    Of several the one that answers most; between two scores their midpoint, -inf where all are answered, inf where none
    is: at share 0 what `calibrate` finds on `own` for "best". Raises ValueError for a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: {share} is not allowed; it must lie in [0, 1]")
    parts = [(weight, part) for weight, part in ((1 - share, own), (share, outside)) if weight > 0]
    scores = np.unique(np.concatenate([part.score.astype(np.float64) for _, part in parts]))[::-1]
    overall = np.zeros(scores.size + 1)  # of nothing answered, then of everything from each score on
    for weight, part in parts:
        curve = part.curve()
        # The part's own curve at each score: its last threshold that is no lower.
        place = np.searchsorted(-curve.thresholds, -np.append(np.inf, scores), side="right") - 1
        overall += weight * curve.overall[place]
    return threshold_after(scores, int(np.flatnonzero(overall == overall.max())[-1]))


def _mixed(own: Outcomes, outside: Outcomes, at: Thresholds, share: float) -> dict[str, float]:
    alone, foreign = own.answered(at), outside.answered(at)
    right, foreign_right = own.right(at), outside.right(at)
    return {
        "answered": (1 - share) * alone.mean() + share * foreign.mean(),
        "wrong_alone": share * (foreign & ~outside.local).mean(),
        "overall": (1 - share) * right.mean() + share * foreign_right.mean(),
    }
