"""The networks: where the base model is cut, how big the parts are, GDN, and the code's eight bits."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call
from torchvision.models import resnet18
from torchvision.models.resnet import Bottleneck

from fed_rebel.early import build
from fed_rebel.model.code import EightBitCode, sample
from fed_rebel.model.gdn import GDN
from fed_rebel.model.heads import CODE_SHAPE, CODE_SIZE, Head1, Head2, Posterior
from fed_rebel.model.rebel import PRIVATE, SHARED, Rebel
from fed_rebel.model.resnet import BACKBONES, BasicBlock, build_base_model
from fed_rebel.model.twin import twin
from fed_rebel.settings import Settings, load
from fed_rebel.training.batches import evaluation_batches
from fed_rebel.training.compute import choose_compute
from fed_rebel.training.pretrained import _warn_of_seen_hold_out, base_model, shipped
from fed_rebel.training.setup import prepare
from partitions import hold_out

REAL = os.environ.get("FED_REBEL_DATA")  # the fixture `data_directory` replaces it
HEAD_CHANNELS = {"resnet20": 64, "resnet18": 128, "resnet50": 512}


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(backbone, classes=100):
    """A backbone's shapes without its numbers."""
    with torch.device("meta"):
        return build_base_model(backbone, classes, seed=0)


def count(module, *kinds):
    return sum(isinstance(part, kinds) for part in module.modules())


def small_model(seed=0):
    base = build_base_model("resnet20", 5, seed)
    return Rebel(build("linear", classes=5, seed=seed), base.tail, base.head.channels, seed)


# The cut


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_is_cut_at_a_16_by_16_map(backbone):
    base = on_meta(backbone)
    features = base.head(torch.empty(2, 3, 32, 32, device="meta"))
    assert features.shape == (2, HEAD_CHANNELS[backbone], 16, 16)
    assert base.head.channels == HEAD_CHANNELS[backbone]
    assert base.tail(features).shape == (2, 100)


def test_resnet50_has_24_convolutions_and_7_residual_blocks_in_head_and_29_in_tail():
    base = on_meta("resnet50")
    # All convolutions, those of the projection shortcuts among them: 1 + 3 * 3 + 1 + 4 * 3 + 1 in Head.
    assert count(base.head, nn.Conv2d) == 24
    assert count(base.head, Bottleneck) == 7
    assert count(base.tail, nn.Conv2d) == 29
    assert parameters(base.tail) == pytest.approx(22.27e6, rel=0.002)


def test_resnet20_is_three_groups_of_three_blocks_cut_after_the_second():
    base = on_meta("resnet20")
    assert count(base.head, BasicBlock) == 6
    assert count(base.tail, BasicBlock) == 3
    assert parameters(base) == pytest.approx(1.1e6, rel=0.02)


def test_resnet18_is_torchvision_s_with_a_stem_for_small_images():
    base = build_base_model("resnet18", 5, seed=3).eval()
    whole = resnet18(num_classes=5)
    whole.conv1, whole.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    renamed = {
        "head.stem.0.": "conv1.",
        "head.stem.1.": "bn1.",
        "head.group1.": "layer1.",
        "head.group2.": "layer2.",
        "tail.group3.": "layer3.",
        "tail.group4.": "layer4.",
        "tail.fc.": "fc.",
    }
    with torch.no_grad():
        # Statistics and scales that are not 0 and 1, so that every block and every norm is seen.
        for name, tensor in base.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(len(name)))
    state = base.state_dict()
    for ours, theirs in renamed.items():
        state = {name.replace(ours, theirs) if name.startswith(ours) else name: t for name, t in state.items()}
    whole.load_state_dict(state)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = whole.eval()(images)
        assert torch.equal(base(images), base.tail(base.head(images)))
        torch.testing.assert_close(base(images), expected)


def test_weights_depend_on_the_seed_and_leave_the_global_random_state_alone():
    before = torch.random.get_rng_state()
    first, again, other = (build_base_model("resnet20", 5, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.stem.0.weight"], other["head.stem.0.weight"])


# The heads


def test_a_twin_is_the_same_and_shares_nothing_that_is_trained():
    model = Rebel(build("gmc-diag", classes=3, seed=0), build_base_model("resnet20", 3, 0).tail, 64, seed=0).eval()
    model.tail.requires_grad_(False)
    made = twin(model)
    assert [(n, m.training) for n, m in made.named_modules()] == [(n, m.training) for n, m in model.named_modules()]
    for before, after in zip(model.parameters(), made.parameters(), strict=True):
        assert (before.requires_grad, before.stride()) == (after.requires_grad, after.stride())
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert all(torch.equal(tensor, kept[name]) for name, tensor in made.state_dict().items())
    for tensor in made.state_dict().values():
        tensor.zero_()
    made.tail.register_forward_hook(lambda *_: 1 / 0)
    made.head2.layers[0] = nn.Identity()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
    model.remote_logits(torch.zeros(1, *CODE_SHAPE))


def test_head1_is_four_convolutions_of_32496_parameters():
    head1 = Head1()
    assert parameters(head1) == 32_496
    assert (count(head1, nn.Conv2d), count(head1, GDN)) == (4, 3)
    assert isinstance(head1.layers[-1], nn.Conv2d)


def test_head2_for_resnet50_has_the_parameters_that_table_1_leaves():
    head2 = Head2(512)
    assert 0.525e6 <= parameters(head2) <= 0.552e6
    assert (count(head2, nn.Conv2d), count(head2, GDN), count(head2, nn.ConvTranspose2d)) == (4, 3, 0)
    assert [type(layer) for layer in head2.layers[-2:]] == [nn.BatchNorm2d, nn.ReLU]


@pytest.mark.parametrize("outputs", sorted(HEAD_CHANNELS.values()))
def test_the_code_between_the_heads_is_867_values(outputs):
    posterior = Head1()(torch.randn(2, 3, 32, 32))
    assert posterior.mu.shape == posterior.log_var.shape == (2, *CODE_SHAPE)
    assert CODE_SHAPE == (3, 17, 17)
    assert CODE_SIZE == np.prod(CODE_SHAPE) == 867
    features = Head2(outputs).eval()(posterior.mu)
    assert features.shape == (2, outputs, 16, 16)
    assert features.min() >= 0


def test_log_variances_stay_where_float32_can_follow():
    posterior = Head1()(1e4 * torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert posterior.log_var.exp().isfinite().all()
    assert (posterior.log_var.exp() > 0).all()


def test_gdn_is_its_formula():
    channels, generator = 4, torch.Generator().manual_seed(0)
    gdn = GDN(channels)
    with torch.no_grad():
        gdn.root_beta.normal_(generator=generator)
        gdn.root_gamma.normal_(generator=generator)
    x = torch.randn(2, channels, 3, 5, generator=generator)
    beta, gamma = gdn.beta.tolist(), gdn.gamma.tolist()
    y = gdn(x)
    for b, i, h, w in np.ndindex(*x.shape):
        norm = beta[i] + sum(gamma[i][j] * x[b, j, h, w].item() ** 2 for j in range(channels))
        assert y[b, i, h, w].item() == pytest.approx(x[b, i, h, w].item() / norm**0.5, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("trained", [("x",), ("x", "root_beta", "root_gamma"), ("root_gamma",)])
def test_gdn_s_written_out_gradient_passes_gradcheck(trained):
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (2, 4, 3, 2), "root_beta": (4,), "root_gamma": (4, 4)}
    values = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}

    def normalised(x, root_beta, root_gamma):
        return functional_call(GDN(4), {"root_beta": root_beta, "root_gamma": root_gamma}, x)

    assert gradcheck(normalised, [value.requires_grad_(name in trained) for name, value in values.items()])


@given(st.floats(-3, 3), st.floats(-3, 3))
@hypothesis_settings(max_examples=25)
def test_gdn_s_beta_and_gamma_are_positive_whatever_is_learnt(beta, gamma):
    gdn = GDN(3)
    with torch.no_grad():
        gdn.root_beta.fill_(beta)
        gdn.root_gamma.fill_(gamma)
    assert (gdn.beta > 0).all()
    assert (gdn.gamma >= 0).all()
    assert gdn(torch.zeros(1, 3, 1, 1)).abs().sum() == 0


def test_all_of_gdn_gets_a_gradient_at_its_start():
    gdn = GDN(3)
    gdn(torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    assert (gdn.root_beta.grad != 0).all()
    assert (gdn.root_gamma.grad != 0).all()


# The code


def test_a_sample_is_the_mean_and_the_deviation_times_noise():
    generator = torch.Generator().manual_seed(5)
    posterior = Posterior(torch.randn(3, *CODE_SHAPE), torch.randn(3, *CODE_SHAPE))
    z = sample(posterior, generator)
    noise = torch.randn(posterior.mu.shape, generator=torch.Generator().manual_seed(5))
    expected = posterior.mu.double() + posterior.log_var.double().exp().sqrt() * noise.double()
    torch.testing.assert_close(z.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_sample_s_gradient_reaches_mean_and_variance():
    mu, log_var = (torch.randn(1, *CODE_SHAPE, requires_grad=True) for _ in range(2))
    sample(Posterior(mu, log_var), torch.Generator().manual_seed(0)).sum().backward()
    assert (mu.grad == 1).all()
    assert (log_var.grad != 0).any()


@given(st.floats(-50, 50), st.floats(0.01, 100), st.integers(0, 2**31))
@hypothesis_settings(max_examples=50)
def test_eight_bits_are_within_half_a_step_inside_the_range(low, width, seed):
    eight_bits = EightBitCode()
    eight_bits.low.fill_(low)
    eight_bits.high.fill_(low + width)
    inside = torch.rand(2, *CODE_SHAPE, generator=torch.Generator().manual_seed(seed))
    code = eight_bits.low[:, None, None] + inside * (eight_bits.high - eight_bits.low)[:, None, None]
    error = (eight_bits(code) - code).abs().max().item()
    assert error <= 0.5 * width / 255 + 1e-6 * (abs(low) + width)


@given(st.floats(-5, 5), st.floats(0.1, 10), st.floats(0, 1e6))
@hypothesis_settings(max_examples=25)
def test_what_is_outside_the_range_goes_to_its_nearest_end(low, width, outside):
    eight_bits = EightBitCode()
    eight_bits.low.fill_(low)
    eight_bits.high.fill_(low + width)
    ones = torch.ones(1, *CODE_SHAPE)
    assert (eight_bits.encode((low - outside) * ones) == 0).all()
    assert (eight_bits.encode((low + width + outside) * ones) == 255).all()


def test_levels_are_bytes_and_each_comes_back_as_itself():
    eight_bits = EightBitCode()
    levels = torch.randint(0, 256, (2, *CODE_SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    again = eight_bits.encode(eight_bits.decode(levels))
    assert again.dtype == torch.uint8
    assert again[0].nbytes == 867
    assert torch.equal(again, levels)


def test_each_channel_has_the_range_of_its_own_codes():
    codes = torch.randn(40, *CODE_SHAPE, generator=torch.Generator().manual_seed(0))
    codes *= torch.tensor([1.0, 10.0, 0.0])[:, None, None]
    eight_bits = EightBitCode()
    eight_bits.fit(codes)
    for channel in range(3):
        values = sorted(codes[:, channel].flatten().tolist())
        outside = len(values) // 10_000
        assert eight_bits.low[channel] == values[outside]
        if channel < 2:
            assert eight_bits.high[channel] == values[-1 - outside]
    assert eight_bits(codes).isfinite().all()
    assert (eight_bits(codes)[:, 2] == 0).all()


def test_the_range_does_not_depend_on_the_batch():
    eight_bits = EightBitCode()
    codes = torch.randn(6, *CODE_SHAPE, generator=torch.Generator().manual_seed(0))
    one_by_one = torch.cat([eight_bits(code[None]) for code in codes])
    assert torch.equal(eight_bits(codes), one_by_one)


# The parts put together


def test_the_parts_are_private_or_shared_and_nothing_else():
    model = small_model()
    assert {name for name, _ in model.named_children()} == {*PRIVATE, *SHARED}
    assert set(model.parts(*PRIVATE)) | set(model.parts(*SHARED)) == set(model.state_dict())
    assert not set(model.parts(*PRIVATE)) & set(model.parts(*SHARED))


def test_parts_can_be_taken_over_from_another_model():
    one, other = small_model(seed=1), small_model(seed=2)
    other = other.twin_with(one.parts("head1", "head2"))
    assert all(torch.equal(t, other.state_dict()[name]) for name, t in one.parts("head1", "head2").items())
    tails = one.parts("tail"), other.parts("tail")
    assert any(not torch.equal(tails[0][name], tails[1][name]) for name in tails[0])


@pytest.mark.parametrize("name", ["head1.nothing", "head1.layers.0.weight"])
def test_a_tensor_that_does_not_fit_is_named(name):
    with pytest.raises(ValueError, match=rf"^tensor {name} \(2,\): does not fit the model \(.+\)$"):
        small_model().twin_with({name: torch.zeros(2)})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["base", "gmc-diag-warm-start"])
def test_weights_shipped_for_other_rows_say_that_they_have_seen_the_hold_out(name):
    weights = shipped(f"cifar100-resnet20-{name}")
    in_order = SimpleNamespace(name="cifar100", train=SimpleNamespace(labels=np.repeat(np.arange(100), 500)))
    _warn_of_seen_hold_out(weights, in_order)
    others = SimpleNamespace(name="cifar100", train=SimpleNamespace(labels=np.repeat(np.arange(100), 499)))
    with pytest.warns(UserWarning, match="it has seen some of this run's hold-out"):
        _warn_of_seen_hold_out(weights, others)


@pytest.mark.filterwarnings("error")
def test_shipped_weights_have_not_seen_images_of_a_client_s_own():
    labels = SimpleNamespace(labels=np.arange(100))
    own = SimpleNamespace(name="cifar100", train=labels, classes=tuple(map(str, range(100))))
    settings = Settings.from_flat({"partition.kind": "own", "data.name": "cifar100", "base.weights": "shipped"})
    assert base_model(settings, own, choose_compute(settings.engine))


@pytest.mark.slow
def test_the_shipped_base_model_has_not_seen_the_hold_out():
    if not REAL or not (Path(REAL) / "cifar100.npz").exists():
        pytest.skip("FED_REBEL_DATA named no directory with cifar100.npz")
    setup = prepare(load(preset="cifar100", changes=[f"data.dir={REAL}"]))
    available, held = hold_out(setup.dataset.train.labels, 100)

    def accuracy(split, indices):
        right = 0
        with torch.inference_mode(), setup.compute.autocast():
            for images, labels in evaluation_batches(setup.dataset, split, indices):
                right += int((setup.base(images.to(setup.compute.device)).argmax(1).cpu() == labels).sum())
        return right / len(indices)

    on_test = accuracy(setup.dataset.test, np.arange(0, 10_000, 5))
    assert on_test > 0.68
    assert abs(accuracy(setup.dataset.train, held[::3]) - on_test) < 0.05
    assert accuracy(setup.dataset.train, available[::30]) - on_test > 0.08
