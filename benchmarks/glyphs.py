"""Drawing Glyphs-100."""

import numpy as np

from benchmarks.table import Row, within
from benchmarks.timing import seconds
from fed_rebel.datasets.glyphs100 import make
from fed_rebel.datasets.images import IMAGE_SIZE


def rows(quick: bool) -> list[Row]:
    """All of its images, once: they are stored on a machine from then on."""
    train, test = (1_000, 200) if quick else (20_000, 4_000)
    images = train + test
    rng = np.random.default_rng(0)
    random = min(seconds(lambda: rng.random((images, IMAGE_SIZE), np.float32)) for _ in range(2))
    name, against = f"glyphs100, {images:,} images", "a uniform float32 for each of their pixels, drawn by NumPy"
    return [Row(name, against, within(10), seconds(lambda: make(train, test)), random)]
