"""Training the base model and the pooled warm start: stopped after any epoch, it ends as if it had not been."""

import pytest
import torch

from fed_rebel.training.base import train_base
from fed_rebel.training.setup import prepare
from fed_rebel.training.warm_start import train_warm_start
from partitions import hold_out


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def trainings(tiny_settings):
    """Each training of the tiny data as `train(partial, epoch_done)`, which gives its tensors."""
    pooled = {"rounds.warm_start": 0, "warm_start.weights": "pooled", "warm_start.batch_size": 32}
    epochs = {"base.epochs": 3, "warm_start.epochs": 2, "warm_start.finetune_epochs": 2}
    settings = tiny_settings(pooled | epochs)
    setup = prepare(settings)
    available, _ = hold_out(setup.dataset.train.labels, 5)

    def base(partial, epoch_done):
        return train_base(
            setup.dataset, available, settings.base, settings.seed, setup.compute, partial, epoch_done
        ).state_dict()

    def warm_start(partial, epoch_done):
        return train_warm_start(
            settings, setup.dataset, available, setup.base, setup.compute, partial, epoch_done
        ).to_tensors()

    return {"base": base, "warm start": warm_start}


@pytest.fixture(scope="module")
def uninterrupted(trainings, tmp_path_factory):
    return {name: train(tmp_path_factory.mktemp("whole") / "p", lambda *_: None) for name, train in trainings.items()}


@pytest.mark.parametrize(("training", "epochs"), [("base", 3), ("warm start", 4)])
def test_a_training_stopped_after_any_epoch_ends_as_one_left_alone(
    trainings, uninterrupted, tmp_path, training, epochs
):
    partial, heard = tmp_path / "partial", 0

    def stop(*_):
        nonlocal heard
        heard += 1
        raise Stop

    for _ in range(epochs):
        with pytest.raises(Stop):
            trainings[training](partial, stop)
    ended = trainings[training](partial, stop)
    assert heard == epochs
    assert ended.keys() == uninterrupted[training].keys()
    assert all(torch.equal(tensor, uninterrupted[training][name]) for name, tensor in ended.items())


@pytest.mark.parametrize("training", ["base", "warm start"])
def test_a_damaged_checkpoint_is_named(trainings, tmp_path, training):
    (tmp_path / "partial").write_bytes(b"torn")
    with pytest.raises(ValueError, match=f"^{tmp_path / 'partial'}: not a whole safetensors file"):
        trainings[training](tmp_path / "partial", lambda *_: None)


def test_images_that_must_not_be_mirrored_train_another_model(tiny_settings):
    mirrored, as_they_are = (prepare(tiny_settings({"data.flip": flip})) for flip in (True, False))
    assert mirrored.dataset.flip
    assert not as_they_are.dataset.flip
    assert mirrored.identity["data"] == as_they_are.identity["data"]
    assert mirrored.identity["base_model"] != as_they_are.identity["base_model"]
