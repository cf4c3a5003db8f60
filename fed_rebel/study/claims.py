"""The paper's claims about the centralised study, held against the answers: true or not, and by how much."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fed_rebel.exits import Curve, Outcomes
from fed_rebel.study.tables import COVERAGES

Curves = Mapping[str, Mapping[int, Curve]]
"""Of each variant the coverage curves on test images, a seed each."""

RIVALS = ("linear", "kmeans", "knn")
MIXTURES = ("gmc", "gmc-diag")
_GRID = np.linspace(0, 1, 1001)[1:]


def claims(answers: pd.DataFrame, table_2: pd.DataFrame | None) -> pd.DataFrame:
    """A row a claim: `claim`, `paper`, `ours`, `holds`; only those for which the variants are there.

    Accuracies are of test images. Differences are taken seed by seed; of several seeds their mean counts, and their
    standard deviation is told.
    """
    test = answers[answers["split"] == "test"]
    curves = {
        str(variant): {seed: Outcomes.of(of[of["seed"] == seed]).curve() for seed in of["seed"].unique().tolist()}
        for variant, of in test.groupby("variant", sort=False)
    }
    rows = [*_rises(curves), *_ahead(curves), *_lifts(curves)]
    for mixture in (f"{name}+reg" for name in MIXTURES if f"{name}+reg" in curves):
        rows += [*_of_mixture(mixture, list(curves[mixture].values())), *_beside_hnd(mixture, curves)]
    rows += _cheaper(table_2) if table_2 is not None else []
    return pd.DataFrame(rows, columns=["claim", "paper", "ours", "holds"])


Row = tuple[str, str, str, bool]


def _rises(curves: Curves) -> Iterator[Row]:
    """Accuracy rises with the threshold, so it falls with coverage."""
    steps = {
        variant: np.diff(np.mean([c.local_answered_at([*COVERAGES, 1.0]) for c in of.values()], axis=0)).max()
        for variant, of in curves.items()
        if variant != "hnd"
    }
    if steps:
        worst = max(steps, key=lambda variant: steps[variant])
        ours = f"least rise between 5, 10, 20, 30, 50 and 100 % coverage: {-100 * steps[worst]:.1f} points ({worst})"
        yield "accuracy rises with the threshold, every classifier", "rises", ours, steps[worst] <= 0


def _ahead(curves: Curves) -> Iterator[Row]:
    """The mixtures against the best of the others at each coverage."""
    for mixture in (name for name in curves if name.removesuffix("+reg") in MIXTURES):
        with_loss = mixture.endswith("+reg")
        rivals = [name + "+reg" * (with_loss and name == "linear") for name in RIVALS]
        for rival in (name for name in rivals if name in curves):
            margins = _differences(curves, mixture, rival)
            if not margins.size:
                continue
            mean = margins.mean(0)
            ours = ", ".join(f"{100 * m:+.1f}" for m in mean) + f" points at 5, 10, 20, 30, 50 % {_of_seeds(margins)}"
            yield f"{mixture} is ahead of {rival} at equal coverage", "ahead", ours, bool((mean > 0).all())


def _lifts(curves: Curves) -> Iterator[Row]:
    for name in (*MIXTURES, "linear"):
        if name in curves and f"{name}+reg" in curves:
            lifts = _differences(curves, f"{name}+reg", name)
            if lifts.size:
                mean = lifts.mean(0)
                paper = "up to 14 points" if name in MIXTURES else "lifts"
                ours = ", ".join(f"{100 * m:+.1f}" for m in mean) + f" at 5, 10, 20, 30, 50 % {_of_seeds(lifts)}"
                yield f"regularisation lifts {name} at equal coverage", paper, ours, bool((mean > 0).all())


def _of_mixture(mixture: str, of: list[Curve]) -> Iterator[Row]:
    remote = np.array([curve.overall[0] for curve in of])
    met = np.array([_GRID[curve.local_answered_at(_GRID) >= curve.overall[0]].max(initial=0) for curve in of])
    yield (
        f"{mixture} is as accurate as the server's answers when it answers about 10 %",
        "10 %",
        f"up to {100 * met.mean():.1f} %{_spread(met)}",
        met.mean() >= 0.095,
    )
    lost = remote - np.array([curve.overall_at(0.2) for curve in of])
    yield (
        f"answering 20 % locally costs less than 5 % of accuracy ({mixture})",
        "under 5",
        f"{100 * lost.mean():.1f} points{_spread(lost)} of {100 * remote.mean():.1f}",
        lost.mean() < 0.05,
    )
    gains = np.array([(curve.overall_at(_GRID[_GRID < 0.1]) - curve.overall[0]).max() for curve in of])
    yield (
        f"below 10 % coverage overall accuracy is slightly above remote ({mixture})",
        "above",
        f"{100 * gains.mean():+.2f} points{_spread(gains)} at the best point",
        gains.mean() > 0,
    )
    sent = np.array([(c.overall_at(0.4) - 0.4 * c.local_answered_at(0.4)) / 0.6 for c in of]) - remote
    yield (
        f"remote accuracy on sent queries falls little up to 40 % coverage ({mixture})",
        "little",
        f"{100 * sent.mean():+.1f} points{_spread(sent)} at 40 %",
        sent.mean() > -0.05,
    )


def _beside_hnd(mixture: str, curves: Curves) -> Iterator[Row]:
    seeds = sorted(set(curves[mixture]) & set(curves.get("hnd", {})))
    if seeds:
        ours, hnd = (np.array([curves[name][seed].overall[0] for seed in seeds]) for name in (mixture, "hnd"))
        told = f"{100 * ours.mean():.1f} against {100 * hnd.mean():.1f}: {100 * (ours - hnd).mean():+.1f}"
        claim = f"remote accuracy with {mixture} is at least that of HND"
        yield claim, "76.7 against 76.4", told + _spread(ours - hnd), bool(ours.mean() >= hnd.mean())


def _cheaper(table_2: pd.DataFrame) -> list[Row]:
    """Operations of Kumar et al. that serve as many queries, over ours."""
    kumar = table_2[table_2["system"] == "Kumar et al."]
    rows = []
    for system, own in table_2[table_2["system"] != "Kumar et al."].groupby("system", sort=False):
        served, spent = own["served"].mean(), own["MFLOP"].mean()
        as_many = kumar[kumar["served"] >= served]["MFLOP"]
        claim = f"{system}: up to 14 times less computation than Kumar et al."
        told = f"{spent:.1f} MFLOP for {100 * served:.0f} %"
        if as_many.empty:
            ours, holds = f"{told}; Kumar et al. serve at most {100 * kumar['served'].max():.0f} %", True
        else:
            times = as_many.min() / spent
            ours, holds = f"{times:.1f} times: {told}, Kumar {as_many.min():.1f}", bool(times > 1)
        rows.append((claim, "14 times", ours, holds))
    return rows


def _differences(curves: Curves, one: str, other: str) -> NDArray[np.float64]:
    """[seeds, coverages]: local accuracy of the answered, of one variant less of another with the same seed."""
    seeds = sorted(set(curves[one]) & set(curves[other]))
    return np.array(
        [
            curves[one][seed].local_answered_at(COVERAGES) - curves[other][seed].local_answered_at(COVERAGES)
            for seed in seeds
        ]
    )


def _of_seeds(differences: NDArray[np.float64]) -> str:
    count = len(differences)
    if count == 1:
        return "(one seed)"
    return f"({count} seeds, deviation at most {100 * differences.std(0, ddof=1).max():.1f})"


def _spread(values: NDArray[np.float64]) -> str:
    return f" +- {100 * values.std(ddof=1):.1f}" if len(values) > 1 else ""
