"""The study as a whole: train, ask, draw; what is there already is not done again."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch

from fed_rebel import files
from fed_rebel.cost import BATCH, Batch, costs
from fed_rebel.datasets.images import IMAGE_SIZE
from fed_rebel.launch.progress import ProgressDisplay
from fed_rebel.model.heads import CODE_SIZE
from fed_rebel.settings import Settings, SettingsError, load
from fed_rebel.study import figures, kumar, tables
from fed_rebel.study.answers import all_answers, answers_of, base_answers, pooled
from fed_rebel.study.claims import claims
from fed_rebel.study.variants import CLASSIFIERS, Variant, variants
from fed_rebel.training.setup import Setup, prepare, target_of
from fed_rebel.training.warm_start import build_model

PARTS = ("fig6", "fig7", "table1", "table2", "fig10")


def study(
    settings: Settings,
    out: Path,
    display: ProgressDisplay,
    *,
    only: Sequence[str] = PARTS,
    classifiers: Sequence[str],
    seeds: int,
    server_speedup: float,
) -> dict[str, pd.DataFrame]:
    """Write the figures and tables of `only` into `out`, and give the tables back by name.

    `seeds` runs of each classifier from `settings.seed` on, beside those that earlier studies in `out` trained. The
    server's measured times are divided by `server_speedup`. Raises `ValueError` for settings that are not allowed, and
    for a directory that holds a study of other settings.
    """
    _check("--only", only, PARTS)
    _check("--classifiers", classifiers, CLASSIFIERS)
    with display.training("base model", settings.base.epochs) as base_epoch_done:
        setup = prepare(settings, lambda epoch, epochs, loss: base_epoch_done(epoch, f"loss {loss:.3f}"))
    _claim(out, settings, setup)
    made: dict[str, pd.DataFrame] = {}
    if {"fig6", "fig7", "table2"} & set(only):
        for variant in variants(classifiers, range(settings.seed, settings.seed + seeds)):
            with display.warm_start(f"{variant.name}, seed {variant.seed}", settings.warm_start) as epoch_done:
                answers_of(variant, settings, setup, out / "answers", epoch_done)
        answers = all_answers(out / "answers")
        made["classifiers"] = tables.classifiers(answers)
        made["comparison"] = tables.comparison(made["classifiers"])
        made["thresholds"] = tables.thresholds(answers, dict.fromkeys([*tables.TARGETS, target_of(settings)]))
        figures.reliability_diagram(tables.reliability(answers), out)
        if "fig6" in only:
            figures.figure_6(answers, out)
        if "fig7" in only:
            figures.figure_7a(answers, out)
            figures.figure_7b(answers, out)
    if {"table1", "table2"} & set(only):
        early = settings.early
        of_parts = costs(
            settings.base.backbone,
            len(setup.dataset.classes),
            components=early.components,
            projection=early.projection,
            stored=len(pooled(setup)),
        )
        if "table1" in only:
            made["table1"] = tables.table_1(of_parts, settings.base.backbone)
        if "table2" in only:
            made["table2"] = tables.table_2(
                answers,
                base_answers(setup, out / "answers"),
                kumar.layer_answers(setup, early.components, settings.seed, out / "answers"),
                kumar.device_flops(setup.base, len(setup.dataset.classes), early.components),
                {cost.part: cost.flops for cost in of_parts},
            )
    if "comparison" in made:
        made["claims"] = claims(answers, made.get("table2"))
    if "fig10" in only:
        _figure_10(settings, setup, out, server_speedup)
    for name, table in made.items():
        files.replace(out / f"{name}.csv", table.to_csv(index=False).encode())
    return made


def _check(option: str, values: Sequence[str], allowed: Sequence[str]) -> None:
    for value in values:
        if value not in allowed:
            raise SettingsError(f"{option} {value}: not known; allowed: {', '.join(allowed)}, with commas between them")


def _claim(out: Path, settings: Settings, setup: Setup) -> None:
    """What is kept there must be of the same settings, data, base model, device and precision."""
    identity = {what: value for what, value in setup.identity.items() if what != "partition"}
    about = {"settings.toml": settings.to_toml(), "identity.json": json.dumps(identity, indent=2)}
    for name, text in about.items():
        if not (out / name).exists():
            files.replace(out / name, text.encode())
        # A key that the file does not name, as one of an older version, has its default.
        same = load(out / name) == settings if name == "settings.toml" else (out / name).read_text() == text
        if not same:
            raise SettingsError(f"--out {out}: holds another study (its {name} differs); name another directory")


def _figure_10(settings: Settings, setup: Setup, out: Path, server_speedup: float) -> None:
    """With the times of this machine, or those given; weights do not matter for them, so nothing is trained."""
    exits = settings.exits
    mixture = Variant("gmc-diag", regularised=True, seed=settings.seed).settings(settings)
    model = build_model(mixture, setup.base, len(setup.dataset.classes), settings.seed, setup.compute).eval()
    images = torch.zeros(BATCH, 3, 32, 32, device=setup.compute.device)
    with torch.inference_mode(), setup.compute.autocast():
        code = model.head1(images).mu
    head1 = _seconds(lambda: model.head1(images), setup)
    early = _seconds(lambda: model.early.class_scores(code.flatten(1)), setup)
    server = _seconds(lambda: model.remote_logits(code), setup) / server_speedup
    whole = _seconds(lambda: setup.base(images), setup) / server_speedup
    # A time that is given sets the scale; HND and whole images keep to the measured proportions.
    on_device = exits.device_time / (head1 + early) if exits.device_time else 1.0
    on_server = exits.server_time / server if exits.server_time else 1.0
    rebel = Batch(BATCH, CODE_SIZE, on_device * (head1 + early), on_server * server)
    approaches = {
        "remote only": (0.0, Batch(BATCH, IMAGE_SIZE, 0.0, on_server * whole)),
        "HND": (0.0, Batch(BATCH, CODE_SIZE, on_device * head1, on_server * server)),
        "ReBEL, 23 %": (0.23, rebel),
        "ReBEL, 49 %": (0.49, rebel),
    }
    figures.figure_10a(rebel, exits.round_trip, out)
    figures.figure_10b(approaches, exits.round_trip, out)


def _seconds(work: Callable[[], object], setup: Setup, times: int = 15) -> float:
    """The median time of a batch, after one that is not counted."""
    taken = []
    with torch.inference_mode(), setup.compute.autocast():
        for _ in range(times + 1):
            began = time.perf_counter()
            work()
            if setup.compute.device.type == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])
