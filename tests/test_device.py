"""A step takes all that it needs from the device it is told, tried on one that holds no numbers."""

from contextlib import nullcontext

import pytest
import torch

from fed_rebel.model.resnet import build_base_model
from fed_rebel.settings import load
from fed_rebel.training.compute import Compute
from fed_rebel.training.stages import Distillation, FineTuning, distill, finetune, noise
from fed_rebel.training.teacher import Teacher
from fed_rebel.training.warm_start import build_model

META = Compute(torch.device("meta"), bfloat16=False)
BATCHES = [(torch.zeros(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64))]
NO_NUMBERS = pytest.raises(RuntimeError, match=r"meta tensor|Tensor\.item")
"""What comes of the last line, which reads the losses: two devices in one operation are another error."""


@pytest.fixture(autouse=True)
def without_autocast(monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it knows no such device


@pytest.mark.parametrize("backbone", ["resnet20", "resnet50"])
@pytest.mark.parametrize("kind", ["gmc-diag", "linear", "none"])
def test_a_step_of_every_stage_runs_on_the_device_alone(backbone, kind):
    settings = load(None, [f"base.backbone={backbone}", f"early.kind={kind}"], preset="demo")
    base = build_base_model(backbone, 100, seed=0)
    model = build_model(settings, base, 100, 0, META)
    teacher = Teacher.of(META.place(base.eval()).head, META)
    generator = noise(torch.device("cpu"), 0)  # a GPU has a generator of its own
    adam = torch.optim.Adam(model.parameters())  # the stage's own is fused, which knows no such device

    stage = Distillation(("early", "head1", "head2"), 1e-3, 1e-2, settings.loss, update_statistics=True)
    with NO_NUMBERS:
        distill(model, teacher.lessons(BATCHES), stage, adam, META, generator)
    stage = FineTuning(1e-3, update_statistics=True)
    shares = torch.zeros(100, device="meta")
    with NO_NUMBERS:
        finetune(model, BATCHES, stage, stage.optimiser(model), META, generator, shares)
    assert all(parameter.device.type == "meta" for parameter in model.parameters())


def test_what_lies_on_another_device_is_found():
    settings = load(None, [], preset="demo")
    base = build_base_model("resnet20", 100, seed=0)
    model, stage = build_model(settings, base, 100, 0, META), FineTuning(1e-3, update_statistics=False)
    with pytest.raises(RuntimeError, match="device"):
        finetune(model, BATCHES, stage, stage.optimiser(model), META, noise(torch.device("cpu"), 0), torch.zeros(100))
