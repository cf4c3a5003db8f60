"""Over all clients: weighted and plain mean, standard deviation, worst decile (design: what is measured)."""

import numpy as np
import pandas as pd

DESCRIPTIONS = (
    "train_size",
    "val_size",
    "test_size",
    "classes",
    "effective_classes",
    "gini",
)  # of a shard: none is better or worse
NOT_METRICS = (
    "client",
    "partition",
    "threshold",
    "threshold_plain",
    "threshold_prior",
    "threshold_stacked",
    "threshold_pooled",
    "stack_remote",
    "stack_local",
    "stack_prior",
)


def summarise(clients: pd.DataFrame) -> pd.DataFrame:
    """The metrics of `clients.csv` over its clients: a row a metric, in the order of the file.

    Columns: `weighted` (mean weighted by test_size), `mean`, `sd` (with n - 1; NaN for one client) and
    `worst_decile` (mean of the lowest tenth, at least one client). Undefined values (NaN) are left
    out. Sizes, classes and Gini have mean and sd only.
    """
    metrics = [name for name in clients.columns if name not in NOT_METRICS]
    return pd.DataFrame({name: _over_clients(clients, name) for name in metrics}).T


def _over_clients(clients: pd.DataFrame, name: str) -> dict[str, float]:
    defined = clients[clients[name].notna()]
    values = defined[name].to_numpy(float)
    row = {"weighted": np.nan, "mean": np.nan, "sd": np.nan, "worst_decile": np.nan}
    if values.size:
        row["mean"] = values.mean()
    if values.size > 1:
        row["sd"] = values.std(ddof=1)
    if values.size and name not in DESCRIPTIONS:
        row["weighted"] = np.average(values, weights=defined["test_size"])
        row["worst_decile"] = np.sort(values)[: max(1, values.size // 10)].mean()
    return row
