"""Settings: one frozen tree, the same dotted keys everywhere, and one line for whatever is wrong."""

import tomllib
from pathlib import Path

import pytest
from flwr.common.config import flatten_dict
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fed_rebel.settings import Settings, SettingsError, load, presets

PUBLIC_KEYS = [
    "seed",
    "data.name",
    "data.dir",
    "head1",
    "partition.kind",
    "partition.alpha",
    "partition.clients",
    "partition.samples",
    "partition.classes",
    "partition.quantity",
    "base.backbone",
    "base.weights",
    "base.batch_norm",
    "early.kind",
    "early.components",
    "early.projection",
    "early.prior",
    "loss.mimic",
    "loss.regularisation",
    "loss.early",
    "rounds.warm_start",
    "rounds.distill",
    "rounds.finetune",
    "train.local_epochs",
    "train.batch_size",
    "strategy.name",
    "strategy.weights",
    "strategy.fraction",
    "engine.kind",
    "engine.clients_at_once",
    "engine.threads",
    "exits.target",
    "exits.server_prior",
]

CHOICES = {
    "method": ("rebel", "fedavg", "fedper", "local"),
    "partition.kind": ("by-client", "by-class", "iid", "shards"),
    "base.backbone": ("resnet50", "resnet18", "resnet20"),
    "base.batch_norm": ("frozen", "aggregate", "local"),
    "head1": ("local", "frozen", "shared"),
    "early.kind": ("gmc", "gmc-diag", "linear"),
    "early.prior": ("shares", "none"),
    "strategy.weights": ("samples", "uniform", "sqrt"),
    "engine.kind": ("ray", "inline"),
}

some_values = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**62),
        "data.name": st.text(st.characters(codec="utf-8"), max_size=20).map(lambda text: f"no/such {text}"),
        "partition.alpha": st.floats(1e-4, 1e4),
        "loss.regularisation": st.floats(0, 1e6),
        "strategy.fraction": st.floats(0, 1, exclude_min=True),
        "train.logit_adjustment": st.booleans(),
        **{key: st.sampled_from(values) for key, values in CHOICES.items()},
    },
)


def refusal(changes=(), **kwargs):
    """The one line that says what is wrong."""
    with pytest.raises(SettingsError) as caught:
        load(changes=changes, **kwargs)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_every_public_key_exists():
    assert set(PUBLIC_KEYS) <= set(Settings().flat())


@pytest.mark.parametrize(("key", "value"), [(key, value) for key in CHOICES for value in CHOICES[key]])
def test_every_public_choice_is_taken(key, value):
    assert load(changes=[f"{key}={value}"]).flat()[key] == value


@given(some_values)
@hypothesis_settings(max_examples=50)
def test_dotted_keys_and_toml_give_the_same_tree_back(values):
    settings = Settings.from_flat(values)
    assert settings.flat() == Settings().flat() | values
    assert Settings.from_flat(settings.flat()) == settings
    assert Settings.model_validate(tomllib.loads(settings.to_toml())) == settings


@given(st.floats(1e-4, 1e4), st.integers(0, 2**62), st.booleans(), st.sampled_from(CHOICES["head1"]))
@hypothesis_settings(max_examples=25)
def test_set_takes_the_same_keys(alpha, seed, prior, head1):
    changed = load(
        changes=[
            f"partition.alpha={alpha}",
            f"seed = {seed}",
            f"exits.server_prior={str(prior).lower()}",
            f"head1={head1}",
        ]
    )
    named = {"partition.alpha": alpha, "seed": seed, "exits.server_prior": prior, "head1": head1}
    assert changed == Settings.from_flat(named)


def test_a_run_s_settings_file_can_be_given_again(tmp_path):
    settings = Settings.from_flat({"partition.alpha": 0.03, "head1": "shared", "data.name": 'a "b" \\ c'})
    (tmp_path / "settings.toml").write_text(settings.to_toml(), encoding="utf-8")
    assert load(tmp_path / "settings.toml") == settings


def test_set_changes_a_file_and_the_later_change_wins(tmp_path):
    (tmp_path / "mine.toml").write_text("seed = 7\n[partition]\nalpha = 2\nclients = 4\n")
    settings = load(tmp_path / "mine.toml", ["partition.alpha=0.5", "partition.alpha=0.25"])
    assert (settings.seed, settings.partition.clients, settings.partition.alpha) == (7, 4, 0.25)


def test_a_whole_number_is_a_number():
    alpha = load(changes=["partition.alpha=1"]).partition.alpha
    assert alpha == 1.0
    assert isinstance(alpha, float)


def test_a_path_needs_no_quotes():
    assert load(changes=["data.name=/data/my images.npz"]).data.name == "/data/my images.npz"


@pytest.mark.parametrize("key", ["data.name", "data.dir", "base.weights", "warm_start.weights"])
def test_a_path_that_exists_is_made_absolute_and_a_word_stays(tmp_path, monkeypatch, key):
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "train"):
        Path(name).mkdir()
    assert load(changes=[f"{key}=mine"]).flat()[key] == str(tmp_path / "mine")
    assert load(changes=[f"{key}=train"]).flat()[key] == "train"


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        Settings().partition.alpha = 1.0


def test_every_preset_loads():
    assert {"demo", "cifar100"} <= set(presets())
    for name in presets():
        assert isinstance(load(preset=name), Settings)


def test_the_demo_needs_neither_network_nor_files():
    demo = load(preset="demo")
    assert demo.data.name == "glyphs100"
    assert demo.base.weights in ("train", "shipped")


def test_cifar100_is_the_preset_of_the_design():
    preset = load(preset="cifar100")
    assert preset.data.name == "cifar100"
    assert (preset.partition.kind, preset.partition.clients, preset.partition.samples) == ("by-client", 10, 2000)
    assert (preset.base.backbone, preset.base.weights, preset.early.kind) == ("resnet20", "shipped", "gmc-diag")


def test_flower_s_app_has_the_settings_of_the_demo():
    pyproject = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    config = pyproject["tool"]["flwr"]["app"]["config"]
    # Flower flattens the tables of its configuration to dotted keys.
    assert flatten_dict(config) == {"run": ""} | load(preset="demo").flat()


# What is wrong


@pytest.mark.parametrize(
    ("misspelt", "near"),
    [
        ("partition.alhpa", "partition.alpha"),
        ("partiton.clients", "partition.clients"),
        ("alpha", "partition.alpha"),
        ("round.finetune", "rounds.finetune"),
        ("head", "head1"),
        ("base.batchnorm", "base.batch_norm"),
    ],
)
def test_a_misspelt_key_suggests_the_near_one(misspelt, near):
    assert refusal([f"{misspelt}=1"]) == f"{misspelt}: unknown key; did you mean {near}?"


def test_an_unknown_key_lists_what_there_is():
    assert "engine.kind" in refusal(["engine.xyzzy=1"])
    message = refusal(["xyzzy=1"])
    assert message.startswith("xyzzy: unknown key")
    assert "partition.alpha" in message


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("partition.alpha", "0", ["0.0001", "10000"]),
        ("partition.alpha", "-1", ["0.0001", "10000"]),
        ("partition.alpha", "nan", ["0.0001", "10000"]),
        ("partition.alpha", "inf", ["0.0001", "10000"]),
        ("partition.alpha", "1e5", ["0.0001", "10000"]),
        ("partition.clients", "0", ["1", "1000"]),
        ("partition.clients", "1001", ["1", "1000"]),
        ("partition.samples", "-5", ["0"]),
        ("strategy.fraction", "0", ["0", "1"]),
        ("strategy.fraction", "1.5", ["0", "1"]),
        ("train.distill_rate", "0", ["0", "10"]),
        ("early.projection", "868", ["0", "867"]),
        ("loss.early", "nan", ["0"]),
        ("seed", "-1", ["0"]),
    ],
)
def test_a_value_out_of_range_is_told_the_range(key, value, allowed):
    message = refusal([f"{key}={value}"])
    told, _, range_told = message.partition("allowed: ")
    assert told.startswith(f"{key} = ")
    assert value.removesuffix("e5") in told
    for bound in allowed:
        assert bound in range_told


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("partition.alpha", "much", "number"),
        ("partition.alpha", "'0.1'", "number"),
        ("partition.clients", "2.5", "whole number"),
        ("partition.clients", "true", "whole number"),
        ("exits.server_prior", "1", "true or false"),
        ("data.name", "100", "string"),
        ("partition.kind", "dirichlet", "by-client"),
        ("head1", "global", "shared"),
        ("seed", "[1, 2]", "whole number"),
    ],
)
def test_a_wrong_type_is_told_the_type(key, value, allowed):
    told, _, type_told = refusal([f"{key}={value}"]).partition("allowed: ")
    assert told.startswith(f"{key} = ")
    assert allowed in type_told


def test_warm_start_weights_contradict_warm_start_rounds():
    message = refusal(["warm_start.weights=pooled", "rounds.warm_start=2"])
    assert "rounds.warm_start = 2" in message
    assert "warm_start.weights = 'pooled'" in message
    assert "allowed: 0" in message


def test_a_form_that_only_the_full_gmc_has_is_refused_for_the_others():
    assert load(changes=["early.kind=gmc", "early.parameterisation=precision"]).early.kind == "gmc"
    message = refusal(["early.kind=linear", "early.parameterisation=precision"])
    assert "early.parameterisation = 'precision': early.kind = 'linear'" in message
    assert "allowed: 'covariance'" in message


def test_a_change_needs_an_equals_sign():
    assert "KEY=VALUE" in refusal(["partition.alpha"])


def test_an_unknown_preset_lists_the_presets():
    message = refusal(preset="cifar10")
    assert "'cifar10'" in message
    assert "cifar100" in message


@pytest.mark.parametrize("content", [b"alpha = = 1", b"\xff\xfe", None])
def test_a_bad_settings_file_is_named(tmp_path, content):
    path = tmp_path / "bad.toml"
    if content is not None:
        path.write_bytes(content)
    assert str(path) in refusal(source=path)


def test_a_file_s_keys_are_checked_as_others(tmp_path):
    (tmp_path / "mine.toml").write_text("[partition]\nalhpa = 1\n")
    assert "did you mean partition.alpha?" in refusal(source=tmp_path / "mine.toml")
    (tmp_path / "mine.toml").write_text("partition = 1\n")
    assert "partition" in refusal(source=tmp_path / "mine.toml")
