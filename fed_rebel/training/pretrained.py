"""Where the base model's and the warm start's weights come from: the package, the cache, a file, or training."""

import hashlib
import json
import warnings
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import torch

from fed_rebel import tensor_file
from fed_rebel.datasets import Dataset, data_directory
from fed_rebel.early import FITTED
from fed_rebel.model.rebel import PRIVATE, SHARED
from fed_rebel.model.resnet import BaseModel, build_base_model
from fed_rebel.settings import Settings, SettingsError
from fed_rebel.training.base import EpochDone, base_key, train_base
from fed_rebel.training.compute import Compute
from fed_rebel.training.warm_start import EpochDone as WarmEpochDone
from fed_rebel.training.warm_start import WarmStart, build_model, fresh_start, train_warm_start
from partitions import hold_out


def models_directory(settings: Settings) -> Path:
    """Where trained base models and warm starts are kept."""
    return data_directory(settings.data.dir) / "models"


def shipped(name: str) -> Path | None:
    """The weights file of that name in the installed package; None where there is none.

    Under `flwr run` the code comes from an app bundle, which holds no weights: they are then looked for where the
    package is installed.
    """
    folders = [Path(__file__).parent.parent / "weights"]
    try:
        installed = metadata.distribution("fed-rebel")
    except metadata.PackageNotFoundError:
        pass
    else:
        folders.append(Path(str(installed.locate_file("fed_rebel/weights"))))
        if editable := installed.read_text("direct_url.json"):
            project = url2pathname(urlparse(json.loads(editable)["url"]).path)
            folders.append(Path(project) / "fed_rebel" / "weights")
    return next((file for folder in folders if (file := folder / f"{name}.safetensors").is_file()), None)


def base_model(
    settings: Settings, dataset: Dataset, compute: Compute, epoch_done: EpochDone = lambda *_: None
) -> BaseModel:
    """The base model that the settings name, in evaluation mode.

    `train` trains it once on the pooled training data without the hold-out and keeps it in the cache.
    Raises `SettingsError` where `base.weights` names what is not there or does not fit.
    """
    base, classes, what = settings.base, len(dataset.classes), f"base.weights = '{settings.base.weights}'"
    if base.weights == "train":
        return _trained_base_model(settings, dataset, compute, epoch_done)
    if base.weights == "shipped":
        name = f"{dataset.name}-{base.backbone}-base"
        if (found := shipped(name)) is None:
            raise SettingsError(f"{what}: none for {base.backbone} on {dataset.name}; allowed: 'train' or a file")
        path = found
    else:
        path = Path(base.weights).expanduser()
    try:
        tensors = tensor_file.read(path)
    except ValueError as error:
        raise SettingsError(f"{what}: {error}; allowed: a safetensors file, 'shipped' or 'train'") from None
    if base.weights == "shipped" and settings.partition.kind != "own":  # images of one's own were in no training
        _warn_of_seen_hold_out(path, dataset)
    model = build_base_model(base.backbone, classes, seed=0)
    load_into(model, tensors, what)
    return compute.place(model).eval()


def warm_start(
    settings: Settings,
    dataset: Dataset,
    base: BaseModel,
    compute: Compute,
    epoch_done: WarmEpochDone = lambda *_: None,
) -> WarmStart:
    """The weights that the settings say every client begins with.

    `pooled` trains them once on the pooled training data without the hold-out and keeps them in the cache.
    Raises `SettingsError` where `warm_start.weights` names what is not there or does not fit.
    """
    weights, classes = settings.warm_start.weights, len(dataset.classes)
    if weights == "none":
        return fresh_start(settings, base, classes, compute)
    if weights == "pooled":
        return _pooled_warm_start(settings, dataset, base, compute, epoch_done)
    path = warm_start_file(settings, dataset)
    try:
        warm = WarmStart.from_tensors(tensor_file.read(path))
        if settings.early.kind in FITTED:
            warm = replace(warm, tensors=_without_early(warm.tensors))
        model = build_model(settings, base, classes, warm.early_seed, compute, warm.tensors)
        needed = set(model.parts(*PRIVATE, *SHARED)) - {f"early.{name}" for name in model.early.fitted}
        if missing := sorted(needed - set(warm.tensors)):
            raise ValueError(f"it lacks {missing[0]}, which early.kind = '{settings.early.kind}' needs")
    except ValueError as error:
        raise SettingsError(f"warm_start.weights = '{weights}': {error}") from None
    if weights == "shipped" and settings.base.weights != "shipped":
        _warn_of_seen_hold_out(path, dataset)
    return warm


def warm_start_file(settings: Settings, dataset: Dataset) -> Path:
    """Where the weights lie that `warm_start.weights` names: shipped ones, or a file of one's own.

    Raises `SettingsError` where there are none.
    """
    weights = settings.warm_start.weights
    if weights != "shipped":
        if not (path := Path(weights).expanduser()).is_file():
            raise SettingsError(
                f"warm_start.weights = '{weights}': no such file; allowed: a safetensors file, 'shipped', 'pooled' or "
                "'none'"
            )
        return path
    # A classifier that is fitted needs no weights of its own: it reads the codes of the diagonal GMC's Head1.
    kind = "gmc-diag" if settings.early.kind in FITTED else settings.early.kind
    if (found := shipped(f"{dataset.name}-{settings.base.backbone}-{kind}-warm-start")) is None:
        raise SettingsError(
            f"warm_start.weights = 'shipped': none for early.kind = '{settings.early.kind}' with "
            f"{settings.base.backbone} on {dataset.name}; allowed: 'pooled', 'none' or a file"
        )
    return found


def load_into(module: torch.nn.Module, tensors: tensor_file.Tensors, what: str) -> None:
    """Load weights of any float type; `SettingsError` naming `what` where names or shapes do not fit."""
    try:
        module.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in tensors.items()})
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise SettingsError(f"{what}: does not fit the model of these settings ({reason})") from None


def hold_out_of(dataset: Dataset) -> dict[str, str]:
    """What tells whether two forms of a data set have the same hold-out, which follows from the rows' labels."""
    return {"training_labels": hashlib.sha256(dataset.train.labels.astype("<i8").tobytes()).hexdigest()}


def _warn_of_seen_hold_out(path: Path, dataset: Dataset) -> None:
    if tensor_file.metadata(path) != hold_out_of(dataset):
        warnings.warn(
            f"the training images of {dataset.name} are not those that {path.name} was trained on, so it has seen some "
            "of this run's hold-out, on which thresholds are calibrated; "
            "for weights that have not use base.weights=train and warm_start.weights=pooled",
            stacklevel=2,
        )


def _pooled_warm_start(
    settings: Settings, dataset: Dataset, base: BaseModel, compute: Compute, epoch_done: WarmEpochDone
) -> WarmStart:
    identity = [
        dataset.fingerprint,
        dataset.flip,
        tensor_file.fingerprint(base.state_dict()),
        settings.seed,
        settings.warm_start.model_dump(exclude={"weights"}),
        # What is fitted has no part in the training: one Head1 serves both.
        "fitted" if settings.early.kind in FITTED else settings.early.model_dump(exclude={"prior"}),
        settings.loss.model_dump(),
        compute.device.type,
        compute.bfloat16,
    ]
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    path = models_directory(settings) / f"warm-start-{key}.safetensors"
    if not path.exists():
        available, _ = hold_out(dataset.train.labels, len(dataset.classes))
        partial = path.with_suffix(".partial.safetensors")
        trained = train_warm_start(settings, dataset, available, base, compute, partial, epoch_done)
        tensors = trained.to_tensors()
        if settings.early.kind in FITTED:
            tensors = _without_early(tensors)
        tensor_file.write(path, tensors)
        partial.unlink(missing_ok=True)  # another process may have trained the same
    return WarmStart.from_tensors(tensor_file.read(path))


def _without_early(tensors: tensor_file.Tensors) -> tensor_file.Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("early.")}


def _trained_base_model(settings: Settings, dataset: Dataset, compute: Compute, epoch_done: EpochDone) -> BaseModel:
    key = base_key(dataset, settings.base, settings.seed, compute)
    finished = models_directory(settings) / f"base-{key}.safetensors"
    if finished.exists():
        model = build_base_model(settings.base.backbone, len(dataset.classes), seed=0)
        load_into(model, tensor_file.read(finished), str(finished))
        return compute.place(model).eval()
    available, _ = hold_out(dataset.train.labels, len(dataset.classes))
    partial = finished.with_suffix(".partial.safetensors")
    model = train_base(dataset, available, settings.base, settings.seed, compute, partial, epoch_done)
    tensor_file.write(finished, model.state_dict())
    partial.unlink(missing_ok=True)
    return model
