"""Tables I and II, and the comparison of the classifiers, each from the study's table of answers."""

import itertools
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from fed_rebel.cost import PartCost
from fed_rebel.exits import Curve, Outcomes, Target, Thresholds, calibration_error

COVERAGES = (0.05, 0.1, 0.2, 0.3, 0.5)
TARGETS = tuple(map(Target.parse, ("best", "coverage:0.1", "coverage:0.2", "coverage:0.46", "accuracy:0.8")))
HELD_AT = 0.8886
"""Of the remote model's accuracy: where Table II holds the overall accuracy."""

_MIB = 2**20
_GRID = np.linspace(0, 1, 1001)[1:]
"""Coverages over which areas are taken."""
_PAPER = {
    "base model": (196e6, 25.6e6, 97.7),
    "Head1": (4.72e6, 32.0e3, 125 / 1024),
    "Head2 + Tail": (153e6, 22.8e6, 87.0),
    "knn": (142e6, None, 168.0),
    "kmeans": (2.25e6, None, 2.96),
    "linear": (13.2e3, 86.8e3, 339 / 1024),
    "gmc": (19.6e6, 75.9e6, 291.0),
    "gmc-diag": (498e3, 695e3, 4.09),
}
"""The paper's Table I: operations as read by PAPI, parameters, MiB (67.7 for ResNet-50 is a misprint of 97.7)."""


def table_1(costs: list[PartCost], backbone: str) -> pd.DataFrame:
    """Operations, parameters and memory a part, the paper's for ResNet-50 beside ours, and why they differ."""
    rows = []
    for cost in costs:
        flops, parameters, memory = _PAPER[cost.part]
        reasons = ["PAPI counts vector instructions"]
        if cost.part in ("base model", "Head2 + Tail") and backbone != "resnet50":
            reasons = [f"{backbone}, not ResNet-50"]
        elif cost.part == "base model":
            reasons += ["the paper's has 1,000 classes", "its 67.7 MB are a misprint"]
        elif cost.part in ("kmeans", "knn"):
            reasons = ["FAISS takes difference, square and sum"]
        rows.append(
            {
                "part": cost.part,
                "MFLOP": cost.flops / 1e6,
                "MFLOP (paper)": flops / 1e6,
                "parameters": cost.parameters or np.nan,
                "parameters (paper)": parameters,
                "MiB": cost.memory / _MIB,
                "MiB (paper)": memory,
                "why": "; ".join(reasons),
            }
        )
    return pd.DataFrame(rows)


def classifiers(answers: pd.DataFrame) -> pd.DataFrame:
    """Local accuracy of the answered queries at fixed coverages, remote accuracy, the areas under the local and the
    overall accuracy against coverage, and the calibration error: a row a variant and seed, on test images."""
    rows = []
    for (variant, seed), own in answers[answers["split"] == "test"].groupby(["variant", "seed"], sort=False):
        test = Outcomes.of(own)
        row = {"variant": variant, "seed": seed, "remote": test.remote.mean()}
        if variant != "hnd":  # which labels nothing itself
            curve = test.curve()
            row |= {f"local_at_{round(100 * c)}": float(curve.local_answered_at(c)) for c in COVERAGES}
            row |= {"local": test.local.mean(), "area_local": curve.local_answered_at(_GRID).mean()}
            row |= {"area_overall": curve.overall_at(_GRID).mean()}
            row |= {"calibration_error": calibration_error(own["confidence"].to_numpy(), test.local)}
        rows.append(row)
    return pd.DataFrame(rows)


def comparison(classifiers: pd.DataFrame) -> pd.DataFrame:
    """The table of classifiers in per cent: mean over seeds, and after +- their standard deviation, a row a variant."""
    numbers = 100 * classifiers.drop(columns="seed").set_index("variant")
    grouped = numbers.groupby("variant", sort=False)
    mean, spread, seeds = grouped.mean(), grouped.std(), grouped.size()
    shown = {
        column: [
            "" if np.isnan(m) else f"{m:.1f}" if np.isnan(s) else f"{m:.1f} +- {s:.1f}"
            for m, s in zip(mean[column], spread[column], strict=True)
        ]
        for column in mean
    }
    return pd.DataFrame({"variant": mean.index, "seeds": seeds.to_numpy()} | shown)


def thresholds(answers: pd.DataFrame, targets: Iterable[Target]) -> pd.DataFrame:
    """Thresholds found on validation images for each target, and what they give there and on test images.

    The difference between the two is the slip of the calibration. Each target once with one threshold and once with
    `by_class`: a threshold for each label that enough images bear. `overall_low` and `overall_high` are the 95 %
    bootstrap interval of the overall accuracy on test images.
    """
    rows = []
    for (variant, seed), own in answers[answers["variant"] != "hnd"].groupby(["variant", "seed"], sort=False):
        val, test = (Outcomes.of(own[own["split"] == split]) for split in ("val", "test"))
        for target, by_class in itertools.product(targets, (False, True)):
            at = val.thresholds(target, by_class=by_class)
            row = {"variant": variant, "seed": seed, "target": str(target), "by_class": by_class}
            row |= {"threshold": at.common}
            on = {"val": val.measures(at), "test": test.measures(at)}
            for name in ("coverage", "local_acc_answered", "overall_acc"):
                row |= {f"{name.replace('_acc', '')}_{split}": measured[name] for split, measured in on.items()}
            row["overall_low"], row["overall_high"] = _interval(test.right(at))
            rows.append(row)
    return pd.DataFrame(rows)


def reliability(answers: pd.DataFrame, bins: int = 15) -> pd.DataFrame:
    """Mean confidence and accuracy of test images in bins of equal width of the confidence: a row a variant and bin."""
    test = answers[(answers["split"] == "test") & (answers["variant"] != "hnd")]
    right = (test["local_label"] == test["label"]).astype(float)
    place = np.minimum((test["confidence"] * bins).astype(int), bins - 1)
    grouped = test.assign(accuracy=right, bin=place).groupby(["variant", "bin"], sort=False)
    table = grouped.agg(confidence=("confidence", "mean"), accuracy=("accuracy", "mean"), images=("image", "size"))
    return table.reset_index().sort_values(["variant", "bin"], ignore_index=True)


def table_2(
    answers: pd.DataFrame,
    base: pd.DataFrame,
    layers: pd.DataFrame,
    layer_flops: NDArray[np.float64],
    costs: Mapping[str, float],
) -> pd.DataFrame:
    """Operations on the device against the share of queries served there, overall accuracy held at 88.86 % of remote.

    Thresholds are set on validation images and applied to test images. ReBEL's rows are the regularised mixtures; a
    row of Kumar's for each number of layers on the device, which counts the layers that queries really went through.
    """
    rows = []
    for variant in ("gmc-diag+reg", "gmc+reg"):
        for seed, own in answers[answers["variant"] == variant].groupby("seed"):
            val, test = (Outcomes.of(own[own["split"] == split]) for split in ("val", "test"))
            at = Thresholds(_held(val.curve()))
            rows.append(
                {
                    "system": f"ReBEL, {variant.removesuffix('+reg')}",
                    "seed": seed,
                    "layers": np.nan,
                    "MFLOP": (costs["Head1"] + costs[variant.removesuffix("+reg")]) / 1e6,
                    "served": test.answered(at).mean(),
                    "overall / remote (val)": val.right(at).mean() / val.remote.mean(),
                    "overall / remote": test.right(at).mean() / test.remote.mean(),
                }
            )
    return pd.DataFrame(rows + _kumar_rows(base, layers, layer_flops))


def _kumar_rows(base: pd.DataFrame, layers: pd.DataFrame, layer_flops: NDArray[np.float64]) -> list[dict[str, object]]:
    val, test = (_Layers.of(base, layers, split) for split in ("val", "test"))
    rows: list[dict[str, object]] = []
    for depth in range(1, len(layer_flops) + 1):
        # From the surest on: the lowest threshold at which validation accuracy still holds.
        grid = np.unique(val.confidence[:, :depth])[::-1]
        held = [t for t in grid if val.overall(depth, t) >= HELD_AT * val.remote.mean()]
        threshold = min(held, default=np.inf)
        exit_layer = test.exits(depth, threshold)
        rows.append(
            {
                "system": "Kumar et al.",
                "seed": np.nan,
                "layers": depth,
                "MFLOP": layer_flops[np.minimum(exit_layer, depth - 1)].mean() / 1e6,
                "served": (exit_layer < depth).mean(),
                "overall / remote (val)": val.overall(depth, threshold) / val.remote.mean(),
                "overall / remote": test.overall(depth, threshold) / test.remote.mean(),
            }
        )
    return rows


class _Layers:
    """Of N images: each layer's confidence [N, L] and whether its label is right [N, L], and the base model's [N]."""

    def __init__(self, confidence: NDArray[np.float64], right: NDArray[np.bool_], remote: NDArray[np.bool_]) -> None:
        self.confidence, self.right, self.remote = confidence, right, remote

    @classmethod
    def of(cls, base: pd.DataFrame, layers: pd.DataFrame, split: str) -> "_Layers":
        own = layers[layers["split"] == split]
        right = own.assign(right=own["local_label"] == own["label"])
        confidence, right = (
            right.pivot(index="image", columns="layer", values=name) for name in ("confidence", "right")
        )
        remote = base[base["split"] == split].set_index("image").loc[confidence.index]
        # Rounded so that the thresholds that are tried are few.
        return cls(
            confidence.to_numpy().round(2), right.to_numpy(bool), (remote["remote_label"] == remote["label"]).to_numpy()
        )

    def exits(self, depth: int, threshold: float) -> NDArray[np.int64]:
        """The layer at which each image leaves; `depth` where none of the first `depth` is sure enough."""
        sure = self.confidence[:, :depth] >= threshold
        return np.where(sure.any(1), sure.argmax(1), depth)

    def overall(self, depth: int, threshold: float) -> float:
        """Accuracy of the whole; who does not leave early gets the base model's label."""
        left = self.exits(depth, threshold)
        local = self.right[np.arange(len(left)), np.minimum(left, depth - 1)]
        return float(np.where(left < depth, local, self.remote).mean())


def _interval(right: NDArray[np.bool_]) -> tuple[float, float]:
    if right.all() or not right.any():
        return float(right.mean()), float(right.mean())  # the bootstrap of a constant is the constant
    found = stats.bootstrap(
        (right.astype(float),), np.mean, n_resamples=1000, batch=50, method="percentile", rng=np.random.default_rng(0)
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _held(curve: Curve) -> float:
    """The lowest threshold at which the overall accuracy still holds; inf where none does."""
    holds = np.flatnonzero(curve.overall >= HELD_AT * curve.overall[0])
    return float(curve.thresholds[holds[-1]])
