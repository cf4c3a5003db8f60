"""The losses against slow plain derivations, and what each training step may change."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from fed_rebel.early import build
from fed_rebel.model.code import sample
from fed_rebel.model.heads import CODE_SHAPE, Posterior
from fed_rebel.model.rebel import Rebel
from fed_rebel.model.resnet import build_base_model
from fed_rebel.settings import Loss
from fed_rebel.training.batches import one_cycle
from fed_rebel.training.compute import Compute
from fed_rebel.training.losses import JointLoss, finetuning_loss, joint_loss, mimic_loss
from fed_rebel.training.stages import Distillation, FineTuning, batch_norm_statistics, distill, finetune, noise

CLASSES, COMPONENTS, BATCH = 4, 2, 3
LOSS = Loss()
CPU = Compute(torch.device("cpu"), bfloat16=False)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed))


def a_model(seed=0):
    """A model and its base whose numbers are nothing special: mixture and statistics are random too."""
    base = build_base_model("resnet20", CLASSES, seed).eval()
    early = build("gmc-diag", classes=CLASSES, seed=seed, components=COMPONENTS, projection=20)
    with torch.no_grad():
        early.means.normal_(generator=generator(seed))
        early.log_weights.normal_(generator=generator(seed + 1))
        early.scale.add_(0.3 * torch.randn(early.scale.shape, generator=generator(seed + 2)))
    model = Rebel(early, base.tail, base.head.channels, seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator(seed + 3))
    return model, base


def a_batch(seed=0):
    labels = torch.randint(CLASSES, (BATCH,), generator=generator(seed))
    return normal(BATCH, 3, 32, 32, seed=seed), labels


def of_mixture(early):
    """Means, variances [C, K, d], weights [C, K] and the projection [d, 867], in double."""
    weights = early.log_weights.detach().double().exp()
    arrays = early.means, early.scale.square() + 1, weights / weights.sum(), early.projection.matrix
    return [array.detach().double().numpy() for array in arrays]


def terms(present=None):
    model, _ = a_model()
    posterior = Posterior(normal(BATCH, *CODE_SHAPE, seed=1), normal(BATCH, *CODE_SHAPE, seed=2))
    code, labels = normal(BATCH, *CODE_SHAPE, seed=3), torch.tensor([2, 0, 2])
    features, target = normal(BATCH, 5, 16, 16, seed=4), normal(BATCH, 5, 16, 16, seed=5)
    loss = joint_loss(features, target, posterior, code, labels, model.early, present)
    return loss, model.early, posterior, code, labels, features, target


# The losses


def test_eq_1_is_the_squared_difference_a_mean_over_elements():
    loss, *_, features, target = terms()
    squares = [(a - b) ** 2 for a, b in zip(features.flatten().tolist(), target.flatten().tolist(), strict=True)]
    assert loss.mimic.item() == pytest.approx(sum(squares) / len(squares), rel=1e-5)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_eq_1_s_gradient_is_torch_s_and_lies_in_memory_as_the_features_do(precision):
    like = {"memory_format": torch.channels_last}
    features, target = (normal(BATCH, 5, 16, 16, seed=seed).to(precision, **like) for seed in (4, 5))
    gradients = []
    for loss in (mimic_loss, lambda a, b: nn.functional.mse_loss(a.float(), b.float())):
        leaf = features.clone().requires_grad_()
        (3 * loss(leaf, target)).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)
    assert gradients[0].is_contiguous(**like)


def test_eq_3_is_the_smallest_divergence_over_the_true_class_s_components():
    loss, early, posterior, _, labels, *_ = terms()
    means, variances, _, projection = of_mixture(early)
    divergences = []
    for mu, log_var, label in zip(posterior.mu, posterior.log_var, labels.tolist(), strict=True):
        mean = projection @ mu.flatten().double().numpy()
        # The default sees the diagonal of R diag(sigma) R^T.
        spread = projection**2 @ log_var.flatten().double().exp().numpy()
        to_each = []
        for k in range(COMPONENTS):
            kl = 0.0
            for d in range(len(mean)):
                s = variances[label, k, d]
                difference = mean[d] - means[label, k, d]
                kl += 0.5 * (math.log(s / spread[d]) - 1 + difference**2 / s + spread[d] / s)
            to_each.append(kl)
        divergences.append(min(to_each))
    assert loss.regularisation.item() == pytest.approx(np.mean(divergences), rel=1e-4)


@pytest.mark.parametrize("present", [None, [True, False, True, False]])
def test_eq_4_is_the_true_class_s_negative_log_probability_under_eq_6(present):
    loss, early, _, code, labels, *_ = terms(None if present is None else torch.tensor(present))
    means, variances, weights, projection = of_mixture(early)
    counted = [c for c in range(CLASSES) if present is None or present[c]]
    losses = []
    for z, label in zip(code, labels.tolist(), strict=True):
        y = projection @ z.flatten().double().numpy()
        log_joint = np.full(CLASSES, -np.inf)
        for c in counted:
            of_components = []
            for k in range(COMPONENTS):
                log_density = -0.5 * sum(
                    math.log(2 * math.pi * s) + (value - mean) ** 2 / s
                    for value, mean, s in zip(y, means[c, k], variances[c, k], strict=True)
                )
                of_components.append(math.log(weights[c, k]) + log_density)
            log_joint[c] = np.logaddexp.reduce(of_components)
        losses.append(np.logaddexp.reduce(log_joint) - log_joint[label])
    assert loss.early.item() == pytest.approx(np.mean(losses), rel=1e-3)


def test_eq_5_weighs_the_terms():
    loss = JointLoss(torch.tensor(2.0), torch.tensor(3.0), torch.tensor(5.0))
    weights = Loss(mimic=0.5, regularisation=0.001, early=0.1)
    assert loss.weighted(weights).item() == pytest.approx(0.5 * 2 + 0.001 * 3 + 0.1 * 5)


@given(st.integers(0, 1000), st.booleans())
@hypothesis_settings(max_examples=20)
def test_fine_tuning_adds_the_log_of_the_shares_to_the_logits(seed, adjusted):
    logits = 5 * normal(6, CLASSES, seed=seed)
    labels = torch.randint(CLASSES, (6,), generator=generator(seed))
    shares = torch.rand(CLASSES, generator=generator(seed)) + 0.01
    shares /= shares.sum()
    losses = []
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        weights = [math.exp(x) * (share if adjusted else 1) for x, share in zip(row, shares.tolist(), strict=True)]
        losses.append(-math.log(weights[label] / sum(weights)))
    loss = finetuning_loss(logits, labels, shares.log() if adjusted else None)
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-4, abs=1e-6)


# The steps


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed_parts(model, before):
    return {name.split(".")[0] for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def lessons(base, *batches):
    with torch.no_grad():
        return [(images, labels, base.head(images)) for images, labels in batches]


def run_distill(model, base, trained, *, update_statistics=False, weights=LOSS, task=0.0, seed=0):
    stage = Distillation(trained, 1e-2, 1e-2, weights, update_statistics, task)
    taught = lessons(base, a_batch(1), a_batch(2))
    return distill(model, taught, stage, stage.optimiser(model), CPU, generator(seed))


@pytest.mark.parametrize(
    "trained", [("early",), ("head1", "early"), ("head2",), ("head1", "head2", "early"), ("early", "head2")]
)
def test_distillation_trains_the_parts_named_and_no_other(trained):
    model, base = a_model()
    before, head = snapshot(model), snapshot(base.head)
    run_distill(model, base, trained)
    assert changed_parts(model, before) == set(trained)
    assert not changed_parts(base.head, head)


def test_distillation_leaves_batch_norm_s_statistics_alone_unless_told():
    names = batch_norm_statistics(a_model()[0])
    for update in (False, True):
        model, base = a_model()
        before = snapshot(model)
        run_distill(model, base, ("head1", "head2", "early"), update_statistics=update)
        moved = {name for name in names if not torch.equal(model.state_dict()[name], before[name])}
        # Tail is not run in distillation, so its statistics never move.
        assert moved == ({name for name in names if name.startswith("head2.")} if update else set())


def test_fixed_parts_keep_their_statistics_where_others_move():
    model, base = a_model()
    before = snapshot(model)
    run_distill(model, base, ("head1", "early"), update_statistics=True)
    assert changed_parts(model, before) == {"head1", "early"}


def test_distillation_reports_the_mean_of_each_term_over_its_steps():
    model, base = a_model()
    nothing = Loss(mimic=0.0, regularisation=0.0, early=0.0)
    reported = run_distill(model, base, ("head1", "head2", "early"), weights=nothing, seed=7)
    noises, expected = generator(7), []
    model.eval()
    with torch.no_grad():
        for images, labels in (a_batch(1), a_batch(2)):
            posterior = model.head1(images)
            code = sample(posterior, noises)
            loss = joint_loss(model.head2(code), base.head(images), posterior, code, labels, model.early)
            expected.append([loss.mimic.item(), loss.regularisation.item(), loss.early.item()])
    names = ("loss_mimic", "loss_regularisation", "loss_early")
    assert [reported[name] for name in names] == pytest.approx(np.mean(expected, axis=0).tolist(), rel=1e-4)


def test_the_server_s_answer_can_be_trained_beside_the_joint_loss():
    everything = ("head1", "head2", "early", "tail")
    model, base = a_model()
    before = snapshot(model)
    run_distill(model, base, everything, task=0.1)
    assert changed_parts(model, before) == set(everything)
    # The early classifier has no part in that answer, and without its weight Tail has none in the joint loss.
    model, base = a_model()
    run_distill(model, base, everything, weights=Loss(mimic=0.0, regularisation=0.0, early=0.0), task=0.1)
    assert changed_parts(model, before) == set(everything) - {"early"}
    model, base = a_model()
    run_distill(model, base, everything)
    assert changed_parts(model, before) == set(everything) - {"tail"}


def test_distillation_lowers_its_loss():
    model, base = a_model()
    stage = Distillation(("head1", "head2", "early"), 3e-3, 1e-2, Loss(), update_statistics=False)
    optimiser = stage.optimiser(model)
    taught = lessons(base, a_batch(1))
    losses = [distill(model, taught, stage, optimiser, CPU, generator(0))["loss_early"] for _ in range(8)]
    assert losses[-1] < losses[0]


def test_the_early_classifier_has_a_learning_rate_of_its_own():
    model, _ = a_model()
    optimiser = Distillation(("head1", "early"), 1e-3, 5e-3, Loss(), False).optimiser(model)
    assert [group["lr"] for group in optimiser.param_groups] == [1e-3, 5e-3]


def run_finetune(model, log_shares=None, *, update_statistics=False):
    stage = FineTuning(1e-2, update_statistics)
    return finetune(model, [a_batch(1), a_batch(2)], stage, stage.optimiser(model), CPU, generator(0), log_shares)


@pytest.mark.parametrize("update_statistics", [False, True])
def test_fine_tuning_leaves_the_private_parts_alone_bit_for_bit(update_statistics):
    model, _ = a_model()
    before = snapshot(model)
    run_finetune(model, update_statistics=update_statistics)
    assert changed_parts(model, before) == {"head2", "tail"}
    moved = {name for name in batch_norm_statistics(model) if not torch.equal(model.state_dict()[name], before[name])}
    assert moved == (batch_norm_statistics(model) if update_statistics else set())


def test_fine_tuning_goes_through_the_eight_bits():
    losses = []
    for width in (8.0, 1e-3):
        model, _ = a_model()
        model.code.low.fill_(-width / 2)
        model.code.high.fill_(width / 2)
        losses.append(run_finetune(model)["loss_finetune"])
    assert losses[0] != losses[1]


def test_fine_tuning_starts_from_the_loss_of_its_first_batch():
    model, _ = a_model()
    images, labels = a_batch(1)
    log_shares = torch.tensor([0.7, 0.1, 0.1, 0.1]).log()
    stage = FineTuning(1e-2, update_statistics=False)
    model.eval()
    with torch.no_grad():
        logits = model.remote_logits(model.code(sample(model.head1(images), generator(3))))
    expected = finetuning_loss(logits, labels, log_shares).item()
    optimiser = stage.optimiser(model)
    reported = finetune(model, [(images, labels)], stage, optimiser, CPU, generator(3), log_shares)
    assert reported["loss_finetune"] == pytest.approx(expected, rel=1e-5)


def test_each_client_round_and_purpose_has_noise_of_its_own():
    entropies = [(0, 1, 2), (0, 2, 1), (1, 1, 2), (0, 1, 3), (0, 1, 2, 1)]
    drawn = {entropy: torch.randn(4, generator=noise(CPU.device, *entropy)).tolist() for entropy in entropies}
    assert len({tuple(values) for values in drawn.values()}) == len(entropies)
    assert torch.randn(4, generator=noise(CPU.device, 0, 1, 2)).tolist() == drawn[0, 1, 2]


@given(st.integers(1, 200), st.floats(1e-4, 1))
@hypothesis_settings(max_examples=25)
def test_the_one_cycle_rises_to_its_peak_and_falls_again(steps, peak):
    rates = [one_cycle(step, steps, peak) for step in range(steps)]
    top = rates.index(max(rates))
    assert all(0 < rate <= peak * (1 + 1e-9) for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
