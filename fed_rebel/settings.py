"""Every setting of a run: one frozen, typed tree, checked when it is made.

The same dotted keys serve TOML files, `--set KEY=VALUE` and Flower's run configuration.
"""

import ast
import difflib
import inspect
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

Scalar = str | int | float | bool

SAME_RESULT = frozenset(
    {"data.dir", "engine.kind", "engine.clients_at_once", "engine.timeout", "strategy.min_replies", "tracking"}
)
"""Settings that change no result: where data lie, what runs the clients, and how much trouble a run puts up with."""

PRESETS_DIR = next(
    folder
    for folder in (Path(__file__).parent / "presets", Path(__file__).parent.parent / "presets")
    if folder.is_dir()
)


class SettingsError(ValueError):
    """One line that names a key, its value and what is allowed."""


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
    )


_WORDS = {"", "cifar100", "glyphs100", "shipped", "train", "pooled", "none"}


def _absolute(value: str) -> str:
    """A path that exists, made absolute: clients may run in another working directory."""
    try:
        path = Path(value).expanduser()
        return str(path.resolve()) if value not in _WORDS and path.exists() else value
    except (OSError, RuntimeError):  # too long a name, or the home of nobody: no path, so said where it is used
        return value


WordOrPath = Annotated[str, AfterValidator(_absolute)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, le=10)]
Weight = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class Data(_Section):
    """Which images."""

    name: WordOrPath = "glyphs100"
    """`cifar100`, `glyphs100`, or the path of an .npz or a folder of pictures."""
    dir: WordOrPath = ""
    """The data directory; empty: FED_REBEL_DATA, else the platform's cache directory."""
    flip: bool = True
    """Mirror training images at random where the data set allows it. False for data of your own (letters, arrows)."""
    views: Annotated[int, Field(ge=0, le=100)] = 0
    """So many fixed views of an image, one an epoch in turn: as it is, and random crops; what the frozen Head says of
    them is kept (1 GiB a process at most). 0: a new crop at each step."""


class PartitionSettings(_Section):
    """Who holds which images."""

    kind: Literal["by-client", "by-class", "iid", "shards", "own"] = "by-client"
    """How images are dealt; `own`: not at all, in a deployment each node brings its own (`data.path`)."""
    alpha: Annotated[float, Field(ge=1e-4, le=1e4)] = 0.1
    """Concentration of the Dirichlet draw: small is skewed."""
    clients: Annotated[int, Field(ge=1, le=1000)] = 10
    samples: Count = 1000
    """Training images a client (their mean where quantity is skewed); 0: all there are."""
    classes: Positive = 5
    """Classes a client, for `shards`."""
    newcomers: Count = 0
    """So many of the clients, the last ones, are met when training is over: each trains its private part once."""
    quantity: Literal["equal", "dirichlet", "log-normal"] = "equal"
    quantity_skew: Annotated[float, Field(gt=0, le=1e4)] = 1.0
    """Concentration of the Dirichlet sizes, or sigma of the log-normal ones."""

    @property
    def members(self) -> int:
        """The clients that the federation is trained with, which come first; the others are newcomers."""
        return self.clients - self.newcomers


class Base(_Section):
    """The base model and how it is trained."""

    backbone: Literal["resnet20", "resnet18", "resnet50"] = "resnet20"
    """The CIFAR ResNet of 32, 64 and 128 channels, or torchvision's with a stem for small images."""
    weights: WordOrPath = "shipped"
    """`shipped`, `train` (on the pooled training data without the hold-out), or a safetensors file."""
    batch_norm: Literal["frozen", "aggregate", "local"] = "frozen"
    """Running statistics in the rounds after the warm start: kept, averaged, or each client's own."""
    epochs: Positive = 20
    batch_size: Positive = 128
    learning_rate: Rate = 0.2
    weight_decay: Weight = 5e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.05
    compile: bool = False
    """Train the base model through torch.compile: faster, needs a C++ compiler."""


class Early(_Section):
    """The early classifier."""

    kind: Literal["gmc", "gmc-diag", "linear", "kmeans", "knn", "none"] = "gmc-diag"
    """`none`: every query is sent, and the code is no sample (Head Network Distillation)."""
    components: Positive = 8
    """Mixture components (of `kmeans`: clusters) a class (K)."""
    projection: Annotated[int, Field(ge=0, le=867)] = 434
    """Dimensions after the random projection; 0: none. `linear`, `kmeans` and `knn` read the code itself."""
    prior: Literal["shares", "none"] = "shares"
    """Private start: multiply the mixture's weights by the client's label shares, or not."""
    parameterisation: Literal["covariance", "precision"] = "covariance"
    """What the full GMC learns: L of Sigma = L^T L + I, or the Cholesky factor of Sigma's inverse."""
    posterior: Literal["diagonal", "full"] = "diagonal"
    """Covariance of the projected posterior in Eq. 3."""


class Loss(_Section):
    """Weights of the joint loss (Eq. 5)."""

    mimic: Weight = 1.0
    regularisation: Weight = 1e-5
    early: Weight = 0.1


class WarmStart(_Section):
    """Weights that Head1, Head2 and the early classifier begin with, in place of warm-start rounds."""

    weights: WordOrPath = "none"
    """`none`, `shipped`, `pooled` (trained on the pooled data without the hold-out), or a safetensors file."""
    epochs: Positive = 10
    finetune_epochs: Count = 4
    batch_size: Positive = 128
    learning_rate: Rate = 3e-3
    early_rate: Rate = 1e-2
    """Adam's learning rate of the early classifier."""
    task: Weight = 0.1
    """Weight of the cross-entropy of the server's answer beside the joint loss, in the pooled warm start."""
    finetune_rate: Rate = 0.05


class Rounds(_Section):
    """How many rounds of each stage, and how often all clients are evaluated."""

    warm_start: Count = 0
    distill: Count = 3
    finetune: Count = 3
    evaluate_every: Count = 1
    """Rounds from one evaluation of all clients to the next; 0: only the private start and the last."""


class Train(_Section):
    """What a client does in a round."""

    local_epochs: Positive = 1
    local_steps: Count = 0
    """As many steps in a round at every client, in place of epochs; 0: epochs."""
    batch_size: Positive = 64
    warm_start_rate: Rate = 3e-3
    """Adam's learning rate in warm-start rounds."""
    warm_start_early_rate: Rate = 1e-2
    """The early classifier's own, in warm-start rounds."""
    distill_rate: Rate = 5e-5
    """Adam's learning rate in distillation rounds."""
    distill_early_rate: Rate = 3e-4
    """The early classifier's own, in distillation rounds."""
    finetune_rate: Rate = 3e-3
    """SGD's learning rate in fine-tuning rounds, and in those of the whole model."""
    keep_optimisers: bool = False
    """Keep what a client's optimisers remember from round to round, privately, instead of starting them afresh."""
    logit_adjustment: bool = True
    """Add the log of the client's label shares to the logits of the cross-entropy that trains a shared last layer."""
    clip: Weight = 0.0
    """Shorten a step's gradient to this norm where it is longer; 0: leave it."""
    head1_pull: Weight = 0.0
    """Draw Head1 back to the warm start's: weight of half its squared distance in the joint loss."""
    mask_absent: bool = False
    """Leave classes that a client has no image of out of its mixture's denominator in distillation too."""


STRATEGIES = (
    "fedavg",
    "fedprox",
    "fednova",
    "scaffold",
    "feddyn",
    "fedavgm",
    "fedadam",
    "fedyogi",
    "fedadagrad",
    "fedmedian",
    "fedtrimmedavg",
    "krum",
    "multikrum",
    "fedma",
)
PRIVATE_STRATEGIES = ("fedavg", "fedprox")
"""Whose server's side is federated averaging: what Flower's privacy accountant is for."""


def _strategy(value: str) -> str:
    if value not in STRATEGIES and ":" not in value:
        raise ValueError(f"{', '.join(STRATEGIES)}, or MODULE:CLASS for one of your own")
    return value


class StrategySettings(_Section):
    """How the server averages, and over whom."""

    name: Annotated[str, AfterValidator(_strategy)] = "fedavg"
    """`fedavg`, `fedprox`, `fednova`, `scaffold`, `feddyn`; with an optimiser on the server `fedavgm`, `fedadam`,
    `fedyogi`, `fedadagrad`; robust `fedmedian`, `fedtrimmedavg`, `krum`, `multikrum`; with matched channels `fedma`; or
    MODULE:CLASS for one of your own."""
    weights: Literal["samples", "uniform", "sqrt", "classes"] = "samples"
    """A client weighs as its images, alike, as their square root, or as the effective number of its classes."""
    mu: Weight = 0.01
    """How strongly `fedprox` draws a client back to the server's parameters, and `feddyn`'s alpha."""
    server_rate: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Learning rate of the server's optimiser; 0: 1 (`fedavgm`), 0.01 (`fedadam`, `fedyogi`), 0.001 (`fedadagrad`)."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of the server's optimiser; beta_1 of `fedadam` and `fedyogi`."""
    second_moment: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """beta_2 of `fedadam` and `fedyogi`."""
    tau: Annotated[float, Field(gt=0, le=10)] = 1e-3
    """Adaptivity of `fedadam`, `fedyogi`, `fedadagrad`: the smaller, the more alike are the steps of all parameters."""
    trimmed: Annotated[float, Field(ge=0, lt=0.5)] = 0.2
    """Share of the clients that `fedtrimmedavg` cuts off at each end, rounded down to whole clients."""
    malicious: Count = 0
    """How many clients of a round `krum` and `multikrum` take for malicious; of m they need 2 m + 3 clients a round."""
    noise_multiplier: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Differential privacy: standard deviation of the noise on the sum of the clients' changes, in `clip`; 0: off."""
    clip: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Norm to which a client's change of the shared parameters is clipped, where there is noise."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """delta of the (epsilon, delta) that is reported, where there is noise; less than 1 / clients."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the clients that train in a round."""
    least: Positive = 1
    """At least so many train in a round and answer in time, or all where there are fewer."""
    min_replies: Positive = 1
    """Good replies that a round, or an evaluation, needs; with fewer the run fails, and can be resumed."""
    sampling: Literal["uniform", "size"] = "uniform"
    """Every client is as likely to be chosen, or in proportion to its images."""
    dropout: Probability = 0.0
    """Simulated: the probability that a chosen client does not train in a round."""
    late: Probability = 0.0
    """Simulated: the probability that a client's reply comes after its round."""
    late_replies: Literal["drop", "next"] = "drop"
    """A late reply is dropped, or its change is used in the next round of the stage."""

    def chosen_of(self, clients: int) -> int:
        """How many of so many clients are chosen for a round."""
        return min(clients, max(self.least, round(self.fraction * clients)))


class Engine(_Section):
    """What runs the clients, and how precisely."""

    kind: Literal["ray", "inline"] = "ray"
    clients_at_once: Count = 0
    """Clients trained at the same time; 0: as many as the cores allow. On a cluster (RAY_ADDRESS) its CPUs decide."""
    threads: Positive = 1
    """torch threads a client."""
    timeout: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds after which a client at work is given up, and the others go on."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 on a GPU or a CPU with AMX, float32 elsewhere."""


class Exits(_Section):
    """When a client answers alone."""

    target: str = "best"
    """Thresholds are for: `best` accuracy, `never`, `coverage:0.46`, `accuracy:0.8`, `delay:0.5` (s, a batch of 64)."""
    bandwidth: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Of the link to the server, in Mbit/s, for a delay budget."""
    round_trip: Annotated[float, Field(ge=0, le=3600)] = 0.02
    """Propagation to the server and back, in seconds."""
    device_time: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """Seconds that Head1 and the early classifier work on a batch of 64; a study measures what is 0."""
    server_time: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """Seconds that Head2 and Tail work on a batch of 64; a study measures what is 0."""
    by_class: bool = False
    """A threshold for each label of the early classifier that at least 20 validation images of the client bear."""
    pooled: bool = False
    """One threshold for all clients, calibrated on their validation images together; less noisy where each has few."""
    server_prior: bool = False
    """Correct the server's answers by the client's label shares too."""
    stacking: bool = False
    """Weigh the server's answers, the label shares and the early classifier's opinion on validation images; more than
    `server_prior`, and in its place."""
    code: Literal["mean", "sampled"] = "mean"
    """In evaluation z is the posterior's mean, or a sample of it (the paper's text)."""


class Report(_Section):
    """What becomes known of the clients."""

    share: Literal["none", "rows", "predictions"] = "none"
    """What clients on disks of their own let the server have: nothing, their rows of `clients.csv`, or their
    predictions too, which hold labels. A simulation has all of it in its run directory."""


class Settings(_Section):
    """Every setting of a run. `flat()` and `from_flat()` turn it into dotted keys and back."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of every random draw of the run."""
    method: Literal["rebel", "fedavg", "fedper", "local"] = "rebel"
    """ReBEL, or a baseline without an early exit that trains the whole base model: averaged, averaged but for the last
    layer, or each client its own. A baseline reads nothing of `head1`, `early`, `loss` and `warm_start`."""
    head1: Literal["local", "frozen", "shared"] = "local"
    """Head1 is trained by each client for itself, kept from the warm start, or averaged like Head2."""
    tracking: Literal["none", "tensorboard", "mlflow"] = "none"
    """Follow the run in TensorBoard (`tensorboard/` in its directory) or in MLflow (MLFLOW_TRACKING_URI) too."""
    data: Data = Data()
    partition: PartitionSettings = PartitionSettings()
    base: Base = Base()
    early: Early = Early()
    loss: Loss = Loss()
    warm_start: WarmStart = WarmStart()
    rounds: Rounds = Rounds()
    train: Train = Train()
    strategy: StrategySettings = StrategySettings()
    engine: Engine = Engine()
    exits: Exits = Exits()
    report: Report = Report()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warm_start.weights != "none" and self.rounds.warm_start:
            raise ValueError(
                f"rounds.warm_start = {self.rounds.warm_start}: warm_start.weights = "
                f"'{self.warm_start.weights}' takes the place of these rounds; "
                "allowed: 0, or warm_start.weights = 'none'"
            )
        if self.method != "rebel" and self.rounds.warm_start:
            raise ValueError(
                f"rounds.warm_start = {self.rounds.warm_start}: method = '{self.method}' trains the base model alone, "
                "which needs no warm start; allowed: 0, or method = 'rebel'"
            )
        if self.partition.kind == "own" and self.base.weights == "train":
            raise ValueError(
                "base.weights = 'train': with partition.kind = 'own' no node has the images that it would be trained "
                "on; allowed: 'shipped' or a file that all nodes have (fed-rebel pretrain)"
            )
        if self.partition.newcomers and self.method != "rebel":
            raise ValueError(
                f"partition.newcomers = {self.partition.newcomers}: method = '{self.method}' has no private part "
                "that a newcomer could start; allowed: 0, or method = 'rebel'"
            )
        if self.partition.members < 1:
            raise ValueError(
                f"partition.newcomers = {self.partition.newcomers}: of partition.clients = {self.partition.clients} at "
                f"least one must take part in training; allowed: 0 to {self.partition.clients - 1}"
            )
        if self.train.head1_pull and (self.method != "rebel" or self.head1 == "frozen"):
            raise ValueError(
                f"train.head1_pull = {self.train.head1_pull}: no client trains a Head1 with method = '{self.method}', "
                f"head1 = '{self.head1}'; allowed: 0, or head1 = 'local'"
            )
        if self.strategy.name == "feddyn" and not self.strategy.mu:
            raise ValueError("strategy.mu = 0.0: strategy.name = 'feddyn' divides by it; allowed: above 0")
        if self.strategy.name == "fedma" and self.method != "rebel":
            raise ValueError(
                f"strategy.name = 'fedma': it matches the channels of Head2, which method = '{self.method}' has not; "
                "allowed: method = 'rebel'"
            )
        self._check_krum()
        self._check_privacy()
        trained = self.strategy.chosen_of(self.partition.members)
        if self.strategy.min_replies > trained:
            raise ValueError(
                f"strategy.min_replies = {self.strategy.min_replies}: {trained} of {self.partition.members} clients "
                f"train in a round; allowed: at most {trained}"
            )
        if self.early.parameterisation == "precision" and self.early.kind != "gmc":
            raise ValueError(
                f"early.parameterisation = 'precision': early.kind = '{self.early.kind}' has no such form; "
                "allowed: 'covariance', or early.kind = 'gmc'"
            )
        return self

    def _check_krum(self) -> None:
        chosen = self.strategy
        needed, there = 2 * chosen.malicious + 3, chosen.chosen_of(self.partition.members)
        if chosen.name not in ("krum", "multikrum"):
            return
        if there < needed:
            raise ValueError(
                f"strategy.malicious = {chosen.malicious}: strategy.name = '{chosen.name}' then needs {needed} clients "
                f"a round, here are {there}; allowed: fewer malicious clients, more clients, or another strategy"
            )
        if (chosen.dropout or chosen.late) and chosen.least < needed:
            raise ValueError(
                f"strategy.least = {chosen.least}: strategy.name = '{chosen.name}' needs {needed} clients a round, and "
                f"simulated dropouts and late replies may leave fewer; allowed: at least {needed}"
            )

    def _check_privacy(self) -> None:
        """Refuse what would be released without noise, or is not what the accountant counts."""
        noise = self.strategy.noise_multiplier
        for key, refused, why, allowed in (
            ("strategy.noise_multiplier", noise < 1e-3, "is no noise", "0 (off), or 0.001 to 1000"),
            (
                "strategy.name",
                self.strategy.name not in PRIVATE_STRATEGIES,
                "is accounted for where the server averages and remembers nothing",
                " or ".join(f"'{name}'" for name in PRIVATE_STRATEGIES),
            ),
            ("strategy.weights", self.strategy.weights != "uniform", "hides a client among its like", "'uniform'"),
            ("rounds.warm_start", self.rounds.warm_start > 0, "does not cover the label counts of these rounds", "0"),
            (
                "base.batch_norm",
                self.base.batch_norm == "aggregate",
                "does not cover averaged statistics",
                "'frozen' or 'local'",
            ),
            ("method", self.method == "local", "has nothing to cover where nothing is shared", "another method"),
            ("strategy.sampling", self.strategy.sampling != "uniform", "needs a choice that no data sway", "'uniform'"),
            ("strategy.dropout", self.strategy.dropout > 0, "is for a fixed number of clients a round", "0"),
            ("strategy.late", self.strategy.late > 0, "is for a fixed number of clients a round", "0"),
        ):
            if noise and refused:
                raise ValueError(
                    f"{key} = {self.flat()[key]!r}: strategy.noise_multiplier = {noise} {why}; allowed: {allowed}"
                )

    @classmethod
    def from_flat(cls, values: Mapping[str, Scalar]) -> Self:
        """Settings from dotted keys; what is not named keeps its default. Raises `SettingsError`."""
        tree: dict[str, Any] = {}
        for key, value in values.items():
            _check_known(key)
            *sections, name = key.split(".")
            node = tree
            for section in sections:
                node = node.setdefault(section, {})
            node[name] = value
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise SettingsError(_one_line(error)) from None

    def flat(self) -> dict[str, Scalar]:
        """Every key, dotted, with its value."""
        return _flatten(self.model_dump())

    def to_toml(self) -> str:
        """The settings as TOML; `load` reads them back to the same tree."""
        return tomli_w.dumps(self.model_dump())


def first_difference(one: Mapping[str, Scalar], other: Mapping[str, Scalar]) -> str | None:
    """The first dotted key, of those that change a result, with two values; None where both give the same bytes."""
    keys = (key for key in dict.fromkeys([*one, *other]) if key not in SAME_RESULT)
    return next((key for key in keys if one.get(key) != other.get(key)), None)


def explained(settings: Settings) -> str:
    """The settings as TOML with what each key means and may be: a template for a file of one's own."""
    lines = ["# Settings of fed-rebel. Lines may be left out: a key that is not named keeps its default."]
    lines += _explained_keys(settings, "")
    for name, section in settings:
        if isinstance(section, _Section):
            lines += ["", f"# {section.__doc__}", f"[{name}]", *_explained_keys(section, f"{name}.")]
    return "\n".join(lines) + "\n"


def _explained_keys(section: _Section, prefix: str) -> Iterator[str]:
    meanings = _docstrings(type(section))
    for key, value in section:
        if isinstance(value, _Section):
            continue
        choices = " | ".join(f'"{choice}"' for choice in get_args(type(section).model_fields[key].annotation))
        remarks = [*meanings.get(key, "").splitlines(), choices or _bounds(prefix + key)]
        yield from (f"# {remark}" for remark in remarks if remark)
        yield tomli_w.dumps({key: value}).rstrip()


def _docstrings(section: type[_Section]) -> dict[str, str]:
    """What stands below each key. Pydantic could do it, of every section whenever a command starts: 35 ms."""
    (definition,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for key, below in pairwise(definition.body):
        match key, below:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                found[name] = inspect.cleandoc(text)
    return found


def load(source: Path | None = None, changes: Iterable[str] = (), *, preset: str | None = None) -> Settings:
    """Settings from a TOML file or a preset, with `KEY=VALUE` changes on top. Raises `SettingsError`."""
    values: dict[str, Scalar] = {}
    if preset is not None:
        source = PRESETS_DIR / f"{preset}.toml"
        if preset not in presets():
            raise SettingsError(f"preset '{preset}': not known; allowed: {', '.join(presets())}")
    if source is not None:
        try:
            values = _flatten(tomllib.loads(source.read_text(encoding="utf-8")))
        except OSError as error:
            raise SettingsError(f"settings file '{source}': {error.strerror}; give a TOML file") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"settings file '{source}': not TOML: {error}") from None
    return Settings.from_flat(values | dict(_parse_change(change) for change in changes))


def presets() -> list[str]:
    """The names that `--preset` takes."""
    return sorted(path.stem for path in PRESETS_DIR.glob("*.toml"))


def _parse_change(change: str) -> tuple[str, Scalar]:
    key, equals, text = change.partition("=")
    if not equals:
        raise SettingsError(f"--set {change}: no '='; write KEY=VALUE, for example partition.alpha=0.1")
    key, text = key.strip(), text.strip()
    _check_known(key)
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    return key, value


@cache
def _known() -> tuple[str, ...]:
    """Every key: made once, as every message to a client bears all settings."""
    return tuple(Settings().flat())


def _check_known(key: str) -> None:
    known = _known()
    if key in known:
        return
    by_name = {name.rsplit(".", 1)[-1]: name for name in known}
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6) or [
        by_name[name] for name in difflib.get_close_matches(key.rsplit(".", 1)[-1], by_name, n=1, cutoff=0.8)
    ]
    section = key.split(".")[0] + "."
    same_section = [name for name in known if name.startswith(section)]
    hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(same_section or known)}"
    raise SettingsError(f"{key}: unknown key; {hint}")


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Scalar]:
    flat: dict[str, Scalar] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    if not first["loc"]:
        return str(first["msg"]).removeprefix("Value error, ")
    key = ".".join(str(part) for part in first["loc"])
    allowed = str(first["msg"]).removeprefix("Value error, ").replace("Input should be ", "").replace("a valid ", "a ")
    bounds = _bounds(key)
    if bounds and first["type"] not in ("literal_error",):
        allowed = f"{allowed.split(' greater')[0].split(' less')[0]}" if "type" in first["type"] else bounds
    allowed = allowed.replace("a integer", "a whole number").replace("a boolean", "true or false")
    return f"{key} = {first['input']!r}: not allowed; allowed: {allowed}"


def _bounds(key: str) -> str:
    """The range a key's value may take, in words; empty where there is none."""
    model: Any = Settings
    *sections, name = key.split(".")
    for section in sections:
        model = model.model_fields[section].annotation
    words = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
    found = [
        text.format(getattr(mark, limit))
        for mark in model.model_fields[name].metadata
        for limit, text in words.items()
        if getattr(mark, limit, None) is not None
    ]
    kind = {int: "a whole number ", float: "a number "}.get(model.model_fields[name].annotation, "")
    return kind + " and ".join(found) if found else ""
