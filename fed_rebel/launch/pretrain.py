"""Train, or find in the cache, what a simulation starts from."""

from pathlib import Path

import numpy as np
from torch import Tensor

from fed_rebel import tensor_file
from fed_rebel.datasets import load
from fed_rebel.exits import coverage_curve
from fed_rebel.launch.progress import ProgressDisplay
from fed_rebel.settings import Settings, SettingsError
from fed_rebel.training.predict import accuracy_on_test, observe
from fed_rebel.training.pretrained import hold_out_of, warm_start, warm_start_file
from fed_rebel.training.setup import Setup, prepare
from fed_rebel.training.warm_start import WarmStart, build_model, fit_early
from partitions import hold_out


def make_ready(settings: Settings, display: ProgressDisplay) -> tuple[Setup, WarmStart | None]:
    """Data, partition, base model and warm start of a run, with a progress bar for what has to be trained first.

    Methods other than ReBEL start from the base model and have no warm start.
    """
    trains = settings.base.weights == "train"
    if trains and settings.method == "rebel" and settings.warm_start.weights not in ("none", "pooled"):
        warm_start_file(settings, load(settings.data.name, settings.data.dir or None))  # told before the training
    with display.training("base model", settings.base.epochs) as base_epoch_done:
        setup = prepare(settings, lambda epoch, epochs, loss: base_epoch_done(epoch, f"loss {loss:.3f}"))
    if settings.method != "rebel":
        return setup, None
    with display.warm_start("warm start", settings.warm_start) as warm_epoch_done:
        start = warm_start(settings, setup.dataset, setup.base, setup.compute, warm_epoch_done)
    return setup, start


def pretrain(settings: Settings, display: ProgressDisplay, out: Path | None = None) -> None:
    """Make a run's base model and warm start ready, and print how good they are on the test images.

    Writes what was trained, the warm start where it is pooled, else the base model, to `out` where that is given: in
    half precision, which keeps a shipped file small. Raises `SettingsError` where neither is to be trained.
    """
    pooled = settings.method == "rebel" and settings.warm_start.weights == "pooled"
    if settings.base.weights != "train" and not pooled:
        raise SettingsError(_nothing_to_train(settings))
    setup, start = make_ready(settings, display)
    accuracy = accuracy_on_test(setup.base, setup.dataset, setup.compute)
    print(f"base model: {100 * accuracy:.2f} % of {len(setup.dataset.test)} test images")
    if start is not None and settings.warm_start.weights != "none":
        classes, compute = len(setup.dataset.classes), setup.compute
        model = build_model(settings, setup.base, classes, start.early_seed, compute, start.tensors).eval()
        available, _ = hold_out(setup.dataset.train.labels, classes)
        fit_early(model, setup.dataset, available, compute)
        test = setup.dataset.test
        said = observe(model, setup.dataset, test, np.arange(len(test)), setup.compute).rows()
        remote, local = (said[name] == said["label"] for name in ("remote_label", "local_label"))
        print(f"warm start, remote: {100 * remote.mean():.2f} %")
        curve = coverage_curve(said["score"], local, remote)
        for percent in (5, 10, 20, 50, 100):
            answered = curve.local_answered_at(percent / 100)
            print(f"warm start, local at {percent} % coverage: {100 * answered:.2f} %")
    if out is not None:
        made = start.to_tensors() if start is not None and pooled else setup.base.state_dict()
        halves = {name: _half(tensor) for name, tensor in made.items()}
        tensor_file.write(out, halves, hold_out_of(setup.dataset))
        print(f"written to {out}")


def _nothing_to_train(settings: Settings) -> str:
    base = f"base.weights = '{settings.base.weights}'"
    if settings.method != "rebel":
        return f"{base}: nothing to train, as method = '{settings.method}' has no warm start; allowed: 'train'"
    return (
        f"{base}, warm_start.weights = '{settings.warm_start.weights}': nothing to train; "
        "allowed: base.weights = 'train', warm_start.weights = 'pooled', or both"
    )


def _half(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor
