"""Glyphs-100: 100 classes of characters in the fonts that matplotlib ships; it needs no file and no network.

Each image has a difficulty, drawn uniformly from [0, 1], that lowers its character's contrast and size and
raises turn, slant, texture, clutter, blur, occlusion and noise. So some queries are easy and some hopeless,
as the study of early labels needs them.

Pixels come from sums, products and look-ups in tables alone, each rounded as IEEE 754 has it, in chunks
with a generator each: they depend neither on the number of threads nor on the vector instructions at hand.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import Progress

from fed_rebel.datasets.images import SIDE, Dataset, Split, load_once

VERSION = 1
"""To be raised with any change of the pixels: it names the stored images."""

CLASSES = (
    "0123456789"
    # One of those that only size tells apart (c C, o O 0, ...) or that nothing does in some fonts (I l 1).
    "ABCDEFGHJKLMNPQRSTUVWXYZ"
    "abdefghijmnqrty"
    "ΓΔΘΛΞΠΣΦΨΩαβγδεζηλμξπσφψω"
    "ЖЯЮШЭЦД"
    "&@#$%?+=<{§€£∞√∫∂♠→"
)
"""The characters, one a class. Some pairs are close on purpose: Φ and φ, Ψ and ψ, Σ and E, η and n."""

_STYLES = ("", "-Bold", "-Oblique", "-BoldOblique")
_FONTS = (
    *(f"DejaVuSans{style}" for style in _STYLES),
    *(f"DejaVuSansMono{style}" for style in _STYLES),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmr10", "cmb10", "cmss10", "cmtt10", "cmti10"),
)
_EXTENTS = np.array([12, 15, 19, 24])
"""The larger side of a character's box, in pixels, in the four sizes in which it is rendered."""
_TILE = 32
_CHUNK = 250
_SEED = 100

_Uniform = Callable[..., np.ndarray]
"""(low, high, *shape) -> float32 [B, *shape], uniform."""


def load(data_dir: Path) -> Dataset:
    """20,000 training and 4,000 test images, balanced, made once on a machine. Never to be mirrored.

    Raises:
        ValueError: they cannot be stored.
    """
    return load_once(data_dir, f"glyphs100-v{VERSION}", lambda: make(20_000, 4_000))


def make(train: int, test: int) -> Dataset:
    """That many images in shuffled order, every class as often as another or once more; always the same."""
    tiles = _render()
    console = Console(stderr=True)
    progress = Progress(console=console, transient=True, disable=not console.is_terminal)

    def split(number: int, seed: np.random.SeedSequence) -> Split:
        order, *chunks = seed.spawn(1 + -(-number // _CHUNK))
        labels = np.random.default_rng(order).permutation(np.arange(number) % len(CLASSES))
        parts = [labels[i : i + _CHUNK] for i in range(0, number, _CHUNK)]
        with ThreadPoolExecutor(4) as pool:
            drawn = pool.map(lambda part, chunk: _draw(part, tiles, np.random.default_rng(chunk)), parts, chunks)
            images = list(progress.track(drawn, total=len(parts), description="Drawing Glyphs-100"))
        return Split(np.concatenate(images), labels)

    train_seed, test_seed = np.random.SeedSequence(_SEED).spawn(2)
    with progress:
        return Dataset("glyphs100", tuple(CLASSES), split(train, train_seed), split(test, test_seed), flip=False)


@dataclass(frozen=True)
class _Tiles:
    """Every character in every font that has it, in four sizes, in the middle of a black tile."""

    pixels: np.ndarray  # float32 [tiles, 4, 32, 32], in [0, 1]
    first: np.ndarray  # int [classes], a class's first tile
    number: np.ndarray  # int [classes], how many it has


def _render() -> _Tiles:
    from matplotlib import get_data_path  # half a second to import, and needed once on a machine
    from matplotlib.ft2font import FT2Font

    paths = [Path(get_data_path()) / "fonts" / "ttf" / f"{name}.ttf" for name in _FONTS]
    charmaps = [FT2Font(str(path)).get_charmap() for path in paths]
    pixels, number = [], []
    for character in CLASSES:
        # The cm fonts have other characters than they say outside of the letters and digits of ASCII.
        alphanumeric = character.isascii() and character.isalnum()
        fonts = [
            path
            for path, charmap in zip(paths, charmaps, strict=True)
            if ord(character) in charmap and (alphanumeric or not path.name.startswith("cm"))
        ]
        pixels += [_tiles(character, path) for path in fonts]
        number.append(len(fonts))
    scaled = np.array(pixels, dtype=np.float32) / np.float32(255)
    return _Tiles(scaled, np.cumsum(number) - number, np.array(number))


def _tiles(character: str, path: Path) -> np.ndarray:
    """The character in a font, uint8 [4, 32, 32], the larger side of its box as long as `_EXTENTS` says."""

    def draw(size: float) -> np.ndarray:
        # Basic layout, as what the other engine does depends on whether, and which, Raqm is installed.
        font = ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
        mask = Image.new("L", (4 * _TILE, 4 * _TILE))
        ImageDraw.Draw(mask).text((2 * _TILE, 2 * _TILE), character, fill=255, font=font, anchor="mm")
        return np.asarray(mask.crop(mask.getbbox()))

    longest = max(draw(48).shape)
    tiles = np.zeros((len(_EXTENTS), _TILE, _TILE), dtype=np.uint8)
    for tile, extent in zip(tiles, _EXTENTS, strict=True):
        glyph = draw(48 * extent / longest)
        top, left = (_TILE - glyph.shape[0]) // 2, (_TILE - glyph.shape[1]) // 2
        tile[top : top + glyph.shape[0], left : left + glyph.shape[1]] = glyph
    return tiles


def _draw(labels: np.ndarray, tiles: _Tiles, rng: np.random.Generator) -> np.ndarray:
    """An image, uint8 [B, 32, 32, 3], for each label [B]."""
    count = len(labels)
    difficulty = rng.random((count, 1, 1, 1), dtype=np.float32)

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        return rng.random((count, *shape), dtype=np.float32) * np.float32(high - low) + np.float32(low)

    # Ink is lighter than dark paper and darker than light paper, by a contrast that difficulty takes away.
    paper = uniform(0.1, 0.9, 1, 1, 3)
    towards = np.where(paper.mean(-1, keepdims=True) > 0.5, np.float32(-1), np.float32(1))
    contrast = np.float32(0.75) - np.float32(0.5) * difficulty
    ink = paper + towards * contrast * uniform(0.3, 1.3, 1, 1, 3)

    image = paper + difficulty * (_clouds(uniform) + _stripes(uniform))
    # A second character, anywhere, in a weak ink: clutter that has the look of what is sought.
    other = _place(rng.integers(0, len(CLASSES), count), tiles, rng, np.ones_like(difficulty), spread=14)
    image += other * difficulty * contrast * np.float32(0.5) * uniform(-1, 1, 1, 1, 3)
    shape = _place(labels, tiles, rng, difficulty, spread=5)
    image += shape * (ink - image)
    _occlude(image, difficulty, uniform)
    image += difficulty * uniform(0, 1, 1, 1, 1) * (_blur(image) - image)
    grain = rng.integers(0, 256, (2, *image.shape), dtype=np.uint8).astype(np.float32)
    image += (np.float32(0.02) + np.float32(0.13) * difficulty) * (grain[0] - grain[1]) / np.float32(104)
    levels: np.ndarray = image.clip(0, 1) * np.float32(255) + np.float32(0.5)
    return levels.astype(np.uint8)


def _place(
    labels: np.ndarray, tiles: _Tiles, rng: np.random.Generator, difficulty: np.ndarray, spread: float
) -> np.ndarray:
    """Characters in random font, size, turn, slant and place, of difficulty [B, 1, 1, 1].

    Returns how far they cover each pixel, float32 [B, 32, 32, 1] in [0, 1].
    """
    count, hard = len(labels), difficulty.reshape(-1)
    font = tiles.first[labels] + rng.integers(0, tiles.number[labels])
    extent = rng.uniform(23, 28, count) - 11 * hard
    angle = rng.uniform(-1, 1, count) * (0.05 + 0.5 * hard)
    slant = rng.uniform(-0.3, 0.3, count) * hard
    stretch = 1 + rng.uniform(-0.25, 0.25, count) * hard
    centre = (SIDE - 1) / 2 + rng.uniform(-1, 1, (2, count)) * (1 + spread * hard)

    nearest = np.abs(_EXTENTS - extent[:, None]).argmin(1)
    zoom = _EXTENTS[nearest] / extent
    # Rounded, because libraries do not agree on the last bit of a cosine.
    cos, sin = np.round(np.cos(angle), 6), np.round(np.sin(angle), 6)
    grid = np.arange(SIDE, dtype=np.float32)
    dx = grid - centre[0].astype(np.float32)[:, None]
    dy = grid - centre[1].astype(np.float32)[:, None]

    def source(from_x: np.ndarray, from_y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whole and broken part of a coordinate in the tile, [B, 32, 32]; beyond its edge all is black."""
        x_part = (from_x.astype(np.float32)[:, None] * dx)[:, None, :]
        y_part = (from_y.astype(np.float32)[:, None] * dy)[:, :, None]
        at = (x_part + y_part + np.float32((_TILE - 1) / 2)).clip(0, _TILE - 1.001)
        whole = np.floor(at)
        return whole.astype(np.int32), at - whole

    x, x_rest = source(zoom * stretch * cos, zoom * stretch * sin)
    y, y_rest = source(zoom * (slant * cos - sin), zoom * (slant * sin + cos))
    corner = (font * len(_EXTENTS) + nearest).astype(np.int32)[:, None, None] * _TILE**2 + y * _TILE + x
    flat = tiles.pixels.reshape(-1)
    upper = flat[corner] + x_rest * (flat[corner + 1] - flat[corner])
    lower = flat[corner + _TILE] + x_rest * (flat[corner + _TILE + 1] - flat[corner + _TILE])
    covered: np.ndarray = upper + y_rest * (lower - upper)
    return covered[..., None]


def _clouds(uniform: _Uniform) -> np.ndarray:
    """Soft colour texture, [B, 32, 32, 3]: a grid of 5 x 5 random colours, interpolated."""
    at = np.arange(SIDE) / 8
    low, rest = at.astype(int), (at % 1).astype(np.float32)
    grid = uniform(-0.25, 0.25, 5, 5, 3)
    rows = grid[:, low] + rest[:, None, None] * (grid[:, low + 1] - grid[:, low])
    clouds: np.ndarray = rows[:, :, low] + rest[:, None] * (rows[:, :, low + 1] - rows[:, :, low])
    return clouds


def _stripes(uniform: _Uniform) -> np.ndarray:
    """A triangle wave in a random direction, [B, 32, 32, 3]."""
    grid = np.arange(SIDE, dtype=np.float32)
    wave = uniform(-0.2, 0.2, 1, 1) * grid + uniform(-0.2, 0.2, 1, 1) * grid[:, None] + uniform(0, 1, 1, 1)
    stripes: np.ndarray = np.abs(wave % 1 - np.float32(0.5))[..., None] - np.float32(0.25)
    return stripes * uniform(-0.5, 0.5, 1, 1, 3)


def _occlude(image: np.ndarray, difficulty: np.ndarray, uniform: _Uniform) -> None:
    """Cover a rectangle of each image [B, 32, 32, 3], in place; of an easy one a small one or none."""
    grid = np.arange(SIDE, dtype=np.float32)
    middle, half = uniform(6, 26, 2, 1), uniform(-3, 7, 2, 1) * difficulty[..., 0]
    inside = np.abs(grid - middle) < half
    covered = inside[:, 0, :, None] & inside[:, 1, None, :]
    np.copyto(image, uniform(0, 1, 1, 1, 3), where=covered[..., None])


def _blur(image: np.ndarray) -> np.ndarray:
    """Images [B, 32, 32, 3] under the binomial filter 1 4 6 4 1 along both axes."""
    for axis in (1, 2):
        for _ in range(2):
            edges = [(1, 1) if a == axis else (0, 0) for a in range(4)]
            padded = np.moveaxis(np.pad(image, edges, mode="edge"), axis, 0)
            image = np.moveaxis((padded[:-2] + padded[2:]) * np.float32(0.25) + padded[1:-1] * np.float32(0.5), 0, axis)
    return image
