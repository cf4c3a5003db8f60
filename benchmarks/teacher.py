"""Steps of joint distillation on fixed views, whose teacher features are kept, against steps that compute Head anew."""

from dataclasses import replace

from benchmarks.table import Row, faster
from benchmarks.timing import in_turn, threads
from clients.node import Node
from clients.shard import open_shard
from fed_rebel.model.resnet import build_base_model
from fed_rebel.settings import Settings, load
from fed_rebel.training.stages import Distillation, distill, noise
from fed_rebel.training.teacher import MOST_KEPT, Teacher
from fed_rebel.training.warm_start import build_model
from strategy.messages import Order, Stage

PARTS = ("early", "head1", "head2")


def rows(quick: bool) -> list[Row]:
    """An epoch of the preset demo's first client for each backbone, with one view and with new crops."""
    samples, repeats = (64, 1) if quick else (256, 5)
    views, anew = (
        load(None, [f"partition.samples={samples}", f"data.views={views}"], preset="demo") for views in (1, 0)
    )
    backbones = ("resnet20",) if quick else ("resnet20", "resnet18", "resnet50")
    return [_row(backbone, views, anew, repeats) for backbone in backbones]


def _row(backbone: str, views: Settings, anew: Settings, repeats: int) -> Row:
    shard = open_shard(Order(views, "", "", 0, Stage.DISTILL, 0, False, {}), Node(0))
    base = shard.compute.place(build_base_model(backbone, shard.classes, views.seed)).eval()
    shard = replace(shard, base=base, teacher=Teacher.of(base.head, shard.compute))
    model = build_model(views, base, shard.classes, views.seed, shard.compute)
    train = views.train
    stage = Distillation(PARTS, train.distill_rate, train.distill_early_rate, views.loss, update_statistics=False)
    optimiser, generator = stage.optimiser(model), noise(shard.compute.device, 0)

    def epoch(settings: Settings) -> None:
        (lessons,) = shard.lessons(settings, 0)
        distill(model, lessons, stage, optimiser, shard.compute, generator)

    with threads(1):
        took, bare = in_turn(lambda: epoch(views), lambda: epoch(anew), repeats)
    each = shard.samples * shard.teacher.bytes_of_image / 1e6
    name = f"steps with kept teacher features, {shard.samples} images, batch {train.batch_size}, {backbone}"
    note = f"{each:.0f} MB kept for a view of these images, at most {MOST_KEPT / 1e6:,.0f} MB a process"
    return Row(name, "the same steps with new crops, Head computed in each", faster(1.5), took, bare, note=note)
