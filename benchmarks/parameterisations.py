"""What the two forms of the full mixture are worth: both learn the same codes in the same steps, from the same start.

    python benchmarks/parameterisations.py [--dimensions 128] [--components 2] [--steps 800] [--rate 0.01] [--seeds 3]

The codes are those of CIFAR-100 by the shipped warm start's Head1, which stays as it is; the mixtures see them through
a projection to fewer dimensions than 434, so that a CPU has done soon. Prints a table: accuracy on the test images,
mean and standard deviation over seeds (start, projection and order of the batches), and the time of a step.
"""

import argparse
import time

import numpy as np
import torch
from torch import Tensor

from fed_rebel import early
from fed_rebel.early.classifier import Parameterisation
from fed_rebel.settings import Settings
from fed_rebel.training.batches import evaluation_batches
from fed_rebel.training.pretrained import warm_start
from fed_rebel.training.setup import prepare
from fed_rebel.training.warm_start import build_model
from partitions import hold_out

BATCH = 128
FORMS: tuple[Parameterisation, ...] = ("covariance", "precision")


def codes() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training codes [N, 867] without the hold-out and their labels [N], then those of the test images."""
    settings = Settings.from_flat({"data.name": "cifar100", "base.weights": "shipped", "warm_start.weights": "shipped"})
    setup = prepare(settings)
    warm = warm_start(settings, setup.dataset, setup.base, setup.compute)
    model = build_model(settings, setup.base, len(setup.dataset.classes), warm.early_seed, setup.compute, warm.tensors)
    head1, data = model.eval().head1, setup.dataset
    found = []
    for split, rows in (
        (data.train, hold_out(data.train.labels, len(data.classes))[0]),
        (data.test, np.arange(len(data.test))),
    ):
        with torch.inference_mode(), setup.compute.autocast():
            batches = [head1(images).mu.flatten(1).float() for images, _ in evaluation_batches(data, split, rows)]
        found += [torch.cat(batches).clone(), torch.from_numpy(split.labels[rows]).long()]
    return found[0], found[1], found[2], found[3]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dimensions", type=int, default=128)
    parser.add_argument("--components", type=int, default=2)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    z, labels, test_z, test_labels = codes()
    print("| form | accuracy, % | ms a step |\n| --- | --- | --- |")
    for form in FORMS:
        accuracies, spent = [], 0.0
        for seed in range(chosen.seeds):
            gmc = early.build(
                "gmc",
                classes=100,
                seed=seed,
                components=chosen.components,
                projection=chosen.dimensions,
                parameterisation=form,
            )
            optimiser = torch.optim.Adam(gmc.parameters(), chosen.rate)
            schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, chosen.steps)
            generator, began = torch.Generator().manual_seed(seed), time.perf_counter()
            for _ in range(chosen.steps):
                rows = torch.randint(len(z), (BATCH,), generator=generator)
                optimiser.zero_grad()
                gmc.loss(z[rows], labels[rows]).backward()
                optimiser.step()
                schedule.step()
            spent += time.perf_counter() - began
            with torch.inference_mode():
                said = torch.cat([gmc.class_scores(part).argmax(1) for part in test_z.split(1000)])
            accuracies.append(100 * (said == test_labels).double().mean().item())
        step = 1000 * spent / (chosen.steps * chosen.seeds)
        print(f"| `{form}` | {np.mean(accuracies):.1f} ± {np.std(accuracies, ddof=1):.1f} | {step:.0f} |", flush=True)


if __name__ == "__main__":
    main()
