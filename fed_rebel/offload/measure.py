"""Fig. 10 and the network load, measured: device and server as two processes over a shaped link (Sec. VI-D)."""

import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fed_rebel import early, files
from fed_rebel.cost import BATCH, Batch, Link, delay
from fed_rebel.datasets.images import IMAGE_SIZE
from fed_rebel.model.heads import CODE_SIZE
from fed_rebel.offload import credentials
from fed_rebel.offload.connection import Connection
from fed_rebel.offload.device import hello, look
from fed_rebel.offload.link import ShapedLink, best_link
from fed_rebel.offload.parts import DevicePart, device_part, own_test_images
from fed_rebel.offload.wire import QUERIES_HEADER, Hello
from fed_rebel.report.picture import Picture

BANDWIDTHS = (1, 2, 5, 10)
"""Mbit/s."""
PROPAGATION = 0.01
"""Seconds, each way."""
COVERAGES = (0.0, 0.23, 0.49, 1.0)
DEVICES, RATE = 100, 25
"""Of the network load: devices, and frames a second of each."""
PATIENCE = 120.0
"""Seconds that a batch may take."""


@dataclass(frozen=True)
class Measured:
    """What `measure` found."""

    link: str
    delays: pd.DataFrame
    """A row a bandwidth, approach and coverage: the parts, measured and modelled [s]; error of the model, relative."""
    load: pd.DataFrame
    """A row an approach and size of message: Mbit/s of 100 devices at 25 frames/s."""


@dataclass(frozen=True, eq=False)
class Approach:
    """A way to get a batch labelled, and the server it asks."""

    name: str
    coverage: float
    size: int
    """Bytes a query."""
    look: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
    """Images [B, 32, 32, 3] to levels [B, size], those that the device is least sure of first."""
    connect: Callable[[], Connection]

    def sent(self, queries: int) -> int:
        """How many of so many queries go to the server."""
        return round(queries * (1 - self.coverage))


def measure(run: Path, client: int, out: Path, batches: int, link: ShapedLink | None = None) -> Measured:
    """Measure with a client of a run; tables (CSV) and figure go to `out`.

    `batches` of each bandwidth and approach. Coverage is set: of each batch the device sends that share of which it is
    least sure, whatever was calibrated.
    """
    link = link or best_link()
    try:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as servers:
            credentials.make(Path(folder) / "offload")
            of_codes, of_images = (
                servers.enter_context(_served(run, what, link, Path(folder))) for what in ("codes", "images")
            )
            part = device_part(run, client)
            torch.set_num_threads(part.threads)
            approaches = _approaches(part, of_codes, of_images, Path(folder) / "offload")
            images = own_test_images(run, client)[1].images
            delays = _delays(approaches, images, link, batches)
            load = _load(approaches, images, link)
    finally:
        link.close()
    _picture(delays).write(out)
    files.replace(out / "load.csv", load.to_csv(index=False).encode())
    return Measured(link.name, delays, load)


@contextmanager
def _served(run: Path, what: str, link: ShapedLink, folder: Path) -> Iterator[tuple[str, bytes]]:
    """A server process behind the link: its address, and its model's fingerprint."""
    module = [sys.executable, "-m", "fed_rebel.offload.measured_server"]
    command = [*link.prefix, *module, str(run), what, link.host, str(folder / "offload")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline().split()
        if len(said) != 2:
            raise RuntimeError(f"the server of {what} did not start")
        yield link.open(int(said[0])), bytes.fromhex(said[1])
        process.communicate("")  # it stops where its standard input ends


def _approaches(part: DevicePart, codes: tuple[str, bytes], images: tuple[str, bytes], folder: Path) -> list[Approach]:
    """Whole images, HND (no early classifier), and ReBEL at each coverage."""
    trusted = credentials.of_device(folder / "certificate.pem", folder / "token")
    without = replace(part, early=early.build("none", classes=len(part.classes), seed=0))
    said = replace(hello(part, False), wanted="labels")
    mean, std = (np.array(values, np.float32) for values in (part.normalisation.mean, part.normalisation.std))
    # A pixel, normalised, is an affine code of its channel.
    of_images = Hello(images[1], "labels", -mean / std, (1 - mean) / std)

    def to(address: str, hello: Hello) -> Callable[[], Connection]:
        return lambda: Connection(address, trusted, hello, len(part.classes), PATIENCE, name="localhost")

    def as_codes(own: DevicePart) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
        def levels(batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
            seen = look(own, batch)
            return np.take(seen.levels, seen.answer.score.argsort().numpy(), axis=0)

        return levels

    def whole(batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return batch.transpose(0, 3, 1, 2).reshape(len(batch), IMAGE_SIZE)

    return [
        Approach("whole images", 0.0, IMAGE_SIZE, whole, to(images[0], of_images)),
        Approach("HND", 0.0, CODE_SIZE, as_codes(without), to(codes[0], said)),
        *(Approach("ReBEL", coverage, CODE_SIZE, as_codes(part), to(codes[0], said)) for coverage in COVERAGES),
    ]


def _delays(approaches: list[Approach], images: NDArray[np.uint8], link: ShapedLink, batches: int) -> pd.DataFrame:
    timed = []
    with ExitStack() as open_connections:
        ways = [(approach, open_connections.enter_context(approach.connect())) for approach in approaches]
        link.shape(None, 0.0)
        for approach, connection in ways:
            _timed(approach, connection, _some(images, 0))  # the first of each connects, and is not counted
        for bandwidth in BANDWIDTHS:
            link.shape(bandwidth * 1e6, PROPAGATION)
            for approach, connection in ways:
                for number in range(batches):
                    timed.append({"bandwidth": bandwidth} | _timed(approach, connection, _some(images, number)))
    every = pd.DataFrame(timed)
    return _beside_the_model(every, every.groupby(["bandwidth", "approach", "coverage"], sort=False).median())


def _beside_the_model(every: pd.DataFrame, medians: pd.DataFrame) -> pd.DataFrame:
    """The medians of each bandwidth, approach and coverage, and what the model says of them.

    It is given the median device time of an approach, which has nothing to do with the link, and the median time of
    the server for whole batches.
    """
    device = every.groupby("approach")["device"].median()
    server = every[every["coverage"] == 0].groupby("approach")["server"].median()
    sizes = every.groupby("approach")["size"].first()
    rows = []
    for found in medians.reset_index().to_dict("records"):
        approach = found["approach"]
        batch = Batch(BATCH, int(sizes[approach]), device[approach], server[approach])
        modelled = delay(batch, 1 - found["sent"] / BATCH, Link(found["bandwidth"] * 1e6, 2 * PROPAGATION))
        rows.append(
            {name: found[name] for name in ("bandwidth", "approach", "coverage", "device", "network", "server")}
            | {"network modelled": modelled.network, "measured": found["total"], "modelled": modelled.total}
            | {"error": modelled.total / found["total"] - 1}
        )
    return pd.DataFrame(rows)


def _some(images: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    """The batch of that number: the images again and again."""
    return images[np.arange(number * BATCH, (number + 1) * BATCH) % len(images)]


def _timed(approach: Approach, connection: Connection, images: NDArray[np.uint8]) -> dict[str, object]:
    """Seconds of one batch."""
    began = time.perf_counter()
    levels = approach.look(images)[: approach.sent(len(images))]
    looked = time.perf_counter()
    server = connection.ask(levels).seconds if len(levels) else 0.0
    ended = time.perf_counter() if len(levels) else looked
    return {
        "approach": approach.name,
        "coverage": approach.coverage,
        "size": approach.size,
        "sent": len(levels),
        "device": looked - began,
        "network": ended - looked - server,
        "server": server,
        "total": ended - began,
    }


def _load(approaches: list[Approach], images: NDArray[np.uint8], link: ShapedLink) -> pd.DataFrame:
    """One second of 100 devices, as fast as it goes: a frame a message, and the second's frames in one message."""
    link.shape(None, 0.0)
    return pd.DataFrame(
        [
            _second(approach, approach.look(_some(images, 0))[:RATE], together, link)
            for approach in approaches
            if approach.coverage < 1
            for together in (False, True)
        ]
    )


def _second(approach: Approach, levels: NDArray[np.uint8], together: bool, link: ShapedLink) -> dict[str, object]:
    """A row of the load; `levels` are a second's frames."""
    share = RATE * (1 - approach.coverage)
    sent = [math.floor(share * (device + 1)) - math.floor(share * device) for device in range(DEVICES)]
    messages = [_messages(levels[:number], together) for number in sent]
    with ExitStack() as open_connections, ThreadPoolExecutor(16) as at_once:
        devices = [open_connections.enter_context(approach.connect()) for _ in range(DEVICES)]
        before = link.counted()
        list(at_once.map(lambda one: one.ask(levels[:1]), devices))
        connected = link.counted()
        list(at_once.map(lambda one, own: [one.ask(some) for some in own], devices, messages))
        up, down = (now - then for now, then in zip(link.counted(), connected, strict=True))
    payload = sum(sent) * approach.size
    return {
        "approach": approach.name,
        "coverage": approach.coverage,
        "message": "a second" if together else "a frame",
        "payload": 8e-6 * payload,
        "with header": 8e-6 * (payload + QUERIES_HEADER * sum(len(own) for own in messages)),
        "on the wire": 8e-6 * up,
        "answers": 8e-6 * down,
        "connecting": (sum(connected) - sum(before)) / DEVICES,
    }


def _messages(levels: NDArray[np.uint8], together: bool) -> list[NDArray[np.uint8]]:
    if together:
        return [levels] if len(levels) else []
    return [levels[frame : frame + 1] for frame in range(len(levels))]


def _picture(delays: pd.DataFrame) -> Picture:
    """Measured delay as points on the modelled lines, against coverage, a colour a bandwidth."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    rebel = delays[delays["approach"] == "ReBEL"]
    for number, (bandwidth, own) in enumerate(rebel.groupby("bandwidth")):
        axes.plot(own["coverage"], own["modelled"], color=f"C{number}", label=f"{bandwidth} Mbit/s")
        axes.plot(own["coverage"], own["measured"], "o", color=f"C{number}")
    axes.set(xlabel="answered locally", ylabel=f"delay of a batch of {BATCH} [s]", ylim=(0, None))
    axes.legend(frameon=False, title="lines: modelled, points: measured")
    return Picture("delays", figure, delays)
