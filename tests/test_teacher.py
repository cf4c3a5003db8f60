"""The frozen Head: folded it says the same, and what it says of fixed views is kept without a trace in any result."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from clients.node import Node
from clients.shard import open_shard
from fed_rebel.model.resnet import build_base_model
from fed_rebel.training import teacher
from fed_rebel.training.batches import fixed_view
from fed_rebel.training.folding import fold
from fed_rebel.training.setup import prepare
from strategy.messages import Order, Stage

VIEWS = {"data.views": 2, "train.local_epochs": 2, "rounds.distill": 2}


def the_shard(settings, client=0):
    return open_shard(Order(settings, "", "", 0, Stage.DISTILL, 0, False, {}), Node(client))


def lessons(shard, settings, round=1):
    return [list(epoch) for epoch in shard.lessons(settings, round)]


@pytest.fixture(autouse=True)
def nothing_kept():
    teacher._kept.clear()


@pytest.mark.parametrize("backbone", ["resnet20", "resnet50"])
def test_a_folded_head_says_what_the_head_says(backbone):
    head = build_base_model(backbone, 4, 0).head.eval()
    generator = torch.Generator().manual_seed(0)
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight.detach(), module.bias.detach()):
                tensor.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    folded = fold(copy.deepcopy(head))
    images = torch.randn(3, 3, 32, 32, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), head(images), rtol=1e-3, atol=1e-3)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


def test_each_lesson_has_the_features_of_its_own_images(tiny_settings):
    settings = tiny_settings(VIEWS)
    shard = the_shard(settings)
    for epoch in lessons(shard, settings):
        for images, _, features in epoch:
            torch.testing.assert_close(features, shard.teacher(images), rtol=1e-4, atol=1e-4)
    assert len(teacher._kept) == 2


def test_views_come_in_turn_and_the_first_is_the_image_as_it_is(tiny_settings):
    settings = tiny_settings(VIEWS)
    shard, data = the_shard(settings), prepare(settings).dataset
    plain = data.train.images[shard.shard.train].astype(float).sum()
    scale, shift = 255 * np.array(data.normalisation.std), np.array(data.normalisation.mean) * 255
    sums = []
    for epoch in (*shard.epochs(settings, 0), *shard.epochs(settings, 1)):
        pixels = torch.cat([images for images, _ in epoch]).permute(0, 2, 3, 1).double().numpy()
        sums.append((pixels * scale + shift).sum())
    assert sums[0] == pytest.approx(plain, rel=1e-6)
    assert sums[1] != pytest.approx(plain, rel=1e-6)
    assert sums[2:] == pytest.approx(sums[:2], rel=1e-9)


def test_a_view_is_of_the_run_s_seed(tiny_settings):
    data = prepare(tiny_settings()).dataset
    one, same, other_seed, other_view = (fixed_view(data, *of) for of in ((0, 1), (0, 1), (1, 1), (0, 2)))
    assert (one.corner == same.corner).all()
    assert (one.corner != other_seed.corner).any()
    assert (one.corner != other_view.corner).any()


@pytest.mark.parametrize("most", [0.5, 1.5, 100], ids=["of no view", "of one view", "of all"])
def test_memory_is_bounded_and_does_not_decide_a_bit(tiny_settings, most, monkeypatch):
    """Where not even one view's features are kept they are computed in each step, as without views."""
    settings = tiny_settings(VIEWS)
    shards = [the_shard(settings, client) for client in (0, 1)]
    bytes_of_view = shards[0].samples * shards[0].teacher.channels * 16 * 16 * 4
    expected = [lessons(shard, settings) for shard in shards]
    teacher._kept.clear()
    monkeypatch.setattr(teacher, "MOST_KEPT", most * bytes_of_view)
    for _ in range(2):
        found = [lessons(shard, settings) for shard in shards]
        assert sum(features.nbytes for features in teacher._kept.values()) <= most * bytes_of_view
        if most > 1:
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_process_keeps_one_teacher_s_features(tiny_settings):
    for seed in (0, 1):
        settings = tiny_settings(VIEWS | {"seed": seed})
        lessons(the_shard(settings), settings)
    assert {kept_by for kept_by, _ in teacher._kept} == {prepare(settings).teacher}


def test_a_run_with_views_ends_with_the_same_bytes_whoever_keeps_what(
    federate, tiny_settings, tmp_path, results, monkeypatch
):
    runs = []
    for name, at_once in (("one", 1), ("two", 2)):
        settings = tiny_settings(VIEWS | {"engine.clients_at_once": at_once})
        runs.append(federate(settings, tmp_path / name, shuffled=at_once == 2).run)
        monkeypatch.setattr(teacher.Teacher, "can_keep", lambda *_: True)
        monkeypatch.setattr(teacher, "MOST_KEPT", 1)
    assert results(runs[0]) == results(runs[1])
