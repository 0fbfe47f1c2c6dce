"""The demo's pictures: one scene function a skill, pixels and the facts in them, no words.

Every scene is 96x96 pixels, RGB. How hard a scene is follows one number, its `level` in 0..1, which sets noise,
contrast and overlap together: level 0 is plain, level 1 is near what the pixels still tell. Nothing is hidden on
purpose: what the answer asks for is always drawn, in full or nearly so.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 96
"""Width and height of every picture, pixels."""
SCALE = 3
"""Shapes, dots and bars are drawn this many times larger and averaged down, so that edges carry sub-pixel detail."""
CHARACTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
"""What printed codes are made of; I, O, 0 and 1 are left out, since the font draws some of them alike."""
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "pentagon", "hexagon")
TOP_VALUE = 80
"""The value at a chart's upper line; its lower line is 0."""
TRAIN_SOURCES = 1297
"""Handwritten digits of the training split: indices 0..1296; the test split has 1297..1796, by other hands."""

_RGB = np.array(
    [
        (214, 44, 44),
        (238, 138, 36),
        (232, 212, 56),
        (52, 160, 72),
        (48, 96, 206),
        (132, 64, 176),
        (236, 130, 178),
        (128, 84, 48),
    ],
    dtype=np.float32,
)

_AXIS = np.linspace(-1, 1, SIZE, dtype=np.float32)


@dataclass(frozen=True)
class Scene:
    """One picture and what is in it.

    `values` by skill: digits, the digits; text, indices into CHARACTERS; objects, (colour, shape) index pairs,
    flattened; count, one count for each of COLOURS; chart, the bars' values. All from left to right.
    """

    image: Image.Image
    values: tuple[int, ...]
    digit_sources: tuple[int, ...] = ()


@cache
def _handwriting() -> tuple[list[Image.Image], np.ndarray]:
    """All 1,797 handwritten digits as 8x8 grey pictures (255 is ink), and their labels, shape (1797,)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.clip(digits.images * 16.0, 0, 255).astype(np.uint8)
    return [Image.fromarray(picture) for picture in pixels], digits.target


@cache
def _glyph(character: str, size: int) -> Image.Image:
    """One printed character as a grey mask (255 is ink) with room around it for turning."""
    font = ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(character)
    mask = Image.new("L", (int(right - left) + 8, int(bottom - top) + 8), 0)
    ImageDraw.Draw(mask).text((4 - left, 4 - top), character, font=font, fill=255)
    return mask


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _paper_and_ink(rng: np.random.Generator, level: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A background and a writing colour, light on dark or dark on light; the contrast shrinks with the level."""
    contrast = _between(rng, 70, 100) + 70 * (1 - level)
    middle = _between(rng, 30 + contrast / 2, 225 - contrast / 2)
    sign = 1 if rng.random() < 0.5 else -1
    tints = rng.uniform(-25, 25, size=(2, 3))
    paper = np.clip(middle + sign * contrast / 2 + tints[0], 0, 255)
    ink = np.clip(middle - sign * contrast / 2 + tints[1], 0, 255)
    return tuple(int(c) for c in paper), tuple(int(c) for c in ink)


def _plain_paper(rng: np.random.Generator) -> tuple[int, int, int]:
    """A grey background, light or dark, for scenes whose colours matter."""
    grey = _between(rng, 205, 245) if rng.random() < 0.5 else _between(rng, 5, 40)
    return (int(grey),) * 3


def _finish(image: Image.Image, rng: np.random.Generator, sigma: float, tint: float) -> Image.Image:
    """Uneven light, a colour cast of relative size `tint`, and Gaussian noise of `sigma` (0..255 scale)."""
    slope = rng.uniform(-0.15, 0.15, size=2)
    light = (1 + slope[0] * _AXIS[:, None] + slope[1] * _AXIS[None, :]).astype(np.float32)
    cast = rng.uniform(1 - tint, 1 + tint, size=3).astype(np.float32)
    pixels = np.asarray(image, dtype=np.float32) * light[:, :, None]
    pixels *= cast
    noise = rng.standard_normal((SIZE, SIZE, 4), dtype=np.float32)
    coloured = noise[:, :, :3] + noise[:, :, 3:]
    coloured *= np.float32(sigma / 2**0.5)
    pixels += coloured
    return Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8))


def _clutter(draw: ImageDraw.ImageDraw, rng: np.random.Generator, lines: int, ink: tuple[int, ...]) -> None:
    """Thin lines across the picture in a colour near the ink's."""
    for _ in range(lines):
        y0, y1 = rng.integers(0, SIZE, size=2)
        x0, x1 = rng.integers(0, SIZE // 3), rng.integers(2 * SIZE // 3, SIZE)
        colour = tuple(int(c) for c in np.clip(np.array(ink) + rng.integers(-40, 41, size=3), 0, 255))
        draw.line((int(x0), int(y0), int(x1), int(y1)), fill=colour, width=1)


def digits_scene(rng: np.random.Generator, level: float, split: str) -> Scene:
    """Three to five handwritten digits in a row, turned, stretched, touching each other."""
    pictures, labels = _handwriting()
    low, high = (0, TRAIN_SOURCES) if split == "train" else (TRAIN_SOURCES, len(pictures))
    count = int(rng.integers(3, 6))
    sources = rng.integers(low, high, size=count)
    paper, ink = _paper_and_ink(rng, level)
    image = Image.new("RGB", (SIZE, SIZE), paper)
    pitch = _between(rng, 15.5, min(24, 88 / count))
    left = _between(rng, 12, SIZE - 12 - pitch * (count - 1))
    middle = _between(rng, 20, SIZE - 20)
    for place, source in enumerate(sources):
        size = (int(rng.integers(16, 25)), int(rng.integers(20, 31)))
        mask = pictures[source].resize(size, Image.Resampling.BICUBIC)
        mask = mask.rotate(_between(rng, -14, 14), Image.Resampling.BILINEAR)
        x = left + pitch * place + _between(rng, -1.5, 1.5) - size[0] / 2
        y = middle + _between(rng, -8, 8) - size[1] / 2
        image.paste(ink, (round(x), round(y)), mask)
    _clutter(ImageDraw.Draw(image), rng, int(rng.integers(0, 2 + round(2 * level))), ink)
    image = _finish(image, rng, _between(rng, 5, 15) + 38 * level, 0.1)
    return Scene(image, tuple(int(labels[s]) for s in sources), tuple(int(s) for s in sources))


def text_scene(rng: np.random.Generator, level: float) -> Scene:
    """Four to six small printed characters, each turned on its own, under thin lines."""
    count = int(rng.integers(4, 7))
    values = tuple(int(v) for v in rng.integers(0, len(CHARACTERS), size=count))
    paper, ink = _paper_and_ink(rng, level)
    image = Image.new("RGB", (SIZE, SIZE), paper)
    size = int(rng.integers(11, 17))
    pitch = _between(rng, min(size * 0.85, 80 / count), min(size * 1.2, 84 / count))
    left = _between(rng, 7, SIZE - 7 - pitch * (count - 1))
    middle, slope = _between(rng, 20, SIZE - 20), _between(rng, -0.12, 0.12)
    for place, value in enumerate(values):
        mask = _glyph(CHARACTERS[value], size).rotate(_between(rng, -15, 15), Image.Resampling.BICUBIC)
        x = left + pitch * place - mask.width / 2
        y = middle + slope * pitch * place + _between(rng, -2.5, 2.5) - mask.height / 2
        image.paste(ink, (round(x), round(y)), mask)
    _clutter(ImageDraw.Draw(image), rng, int(rng.integers(1, 3 + round(level))), ink)
    return Scene(_finish(image, rng, _between(rng, 4, 12) + 15 * level, 0.1), values)


def _corners(shape: str, x: float, y: float, radius: float, turn: float) -> list[tuple[float, float]]:
    """Corner points of a polygon around (x, y); `turn` in radians."""
    counts = {"square": 4, "triangle": 3, "diamond": 4, "star": 10, "pentagon": 5, "hexagon": 6}
    if shape == "cross":
        arm = 0.36
        raw = [(arm, 1), (arm, arm), (1, arm), (1, -arm), (arm, -arm), (arm, -1)]
        raw += [(-a, -b) for a, b in raw]
        points = np.array(raw)
    else:
        count = counts[shape]
        angles = np.arange(count) * 2 * np.pi / count - np.pi / 2 + (np.pi / 4 if shape == "square" else 0)
        reach = np.where(np.arange(count) % 2, 0.48, 1.1) if shape == "star" else np.full(count, 1.1)
        points = np.stack([np.cos(angles) * reach, np.sin(angles) * reach], axis=1)
        if shape == "diamond":
            points[:, 0] *= 0.72
    cosine, sine = np.cos(turn), np.sin(turn)
    turned = points @ np.array([[cosine, sine], [-sine, cosine]]) * radius + (x, y)
    return [(float(a), float(b)) for a, b in turned]


def _shape(
    draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, radius: float, turn: float, fill: tuple[int, ...]
) -> None:
    """One filled shape; x, y and radius in pixels of the final picture."""
    x, y, radius = x * SCALE, y * SCALE, radius * SCALE
    if shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    else:
        draw.polygon(_corners(shape, x, y, radius, turn), fill=fill)


def _paint(rng: np.random.Generator, colour: int, spread: float) -> tuple[int, ...]:
    """A shade of a named colour; `spread` is each channel's standard deviation."""
    shade = _RGB[colour] + rng.normal(0, spread, size=3)
    return tuple(int(c) for c in np.clip(shade, 0, 255))


def objects_scene(rng: np.random.Generator, level: float) -> Scene:
    """Three to five small coloured shapes from left to right, at any height, in shades that near each other."""
    count = int(rng.integers(3, 6))
    values: list[int] = []
    image = Image.new("RGB", (SIZE * SCALE, SIZE * SCALE), _plain_paper(rng))
    draw = ImageDraw.Draw(image)
    pitch = _between(rng, 15, 80 / (count - 1) if count > 3 else 28)
    left = _between(rng, 9, SIZE - 9 - pitch * (count - 1))
    for place in range(count):
        colour, shape = int(rng.integers(len(COLOURS))), int(rng.integers(len(SHAPES)))
        values += [colour, shape]
        x, y = left + pitch * place + _between(rng, -2, 2), _between(rng, 12, SIZE - 12)
        radius = _between(rng, 6, 9) - 1.2 * level
        turn = _between(rng, -0.22, 0.22)
        _shape(draw, SHAPES[shape], x, y, radius, turn, _paint(rng, colour, 6 + 14 * level))
    image = image.reduce(SCALE)
    return Scene(_finish(image, rng, _between(rng, 3, 10) + 30 * level, 0.04 + 0.08 * level), tuple(values))


def count_scene(rng: np.random.Generator, level: float) -> Scene:
    """Three to fourteen small dots in two to four colours; the higher the level, the more they overlap."""
    kinds = rng.choice(len(COLOURS), size=int(rng.integers(2, 5)), replace=False)
    count = int(rng.integers(3, 15))
    image = Image.new("RGB", (SIZE * SCALE, SIZE * SCALE), _plain_paper(rng))
    draw = ImageDraw.Draw(image)
    closeness = 1.15 - 0.6 * level
    placed: list[tuple[float, float, float]] = []
    counts = [0] * len(COLOURS)
    for _ in range(count):
        for _ in range(60):
            x, y, radius = _between(rng, 7, SIZE - 7), _between(rng, 7, SIZE - 7), _between(rng, 3.5, 6.0)
            if all((x - a) ** 2 + (y - b) ** 2 > (closeness * (radius + r)) ** 2 for a, b, r in placed):
                break
        placed.append((x, y, radius))
        colour = int(kinds[rng.integers(len(kinds))])
        counts[colour] += 1
        _shape(draw, "circle", x, y, radius, 0.0, _paint(rng, colour, 4 + 12 * level))
    image = image.reduce(SCALE)
    return Scene(_finish(image, rng, _between(rng, 3, 10) + 30 * level, 0.04 + 0.06 * level), tuple(counts))


def chart_scene(rng: np.random.Generator, level: float) -> Scene:
    """Three to five bars of values 1..80 between a lower line (0) and an upper line (80), with faint lines between."""
    count = int(rng.integers(3, 6))
    values = tuple(int(v) for v in rng.integers(1, TOP_VALUE + 1, size=count))
    paper = _plain_paper(rng)
    dark = paper[0] < 128
    image = Image.new("RGB", (SIZE * SCALE, SIZE * SCALE), paper)
    draw = ImageDraw.Draw(image)
    height = _between(rng, 64, 80)
    floor = _between(rng, height + 6, SIZE - 6)
    left, right = _between(rng, 4, 10), SIZE - _between(rng, 4, 10)
    faint, line = ((85,) * 3, (205,) * 3) if dark else ((175,) * 3, (50,) * 3)
    for part in range(9):
        y = (floor - height * part / 8) * SCALE
        draw.line((left * SCALE, y, right * SCALE, y), fill=line if part in (0, 8) else faint, width=2)
    pitch = (right - left) / count
    for place, value in enumerate(values):
        x, half = left + pitch * (place + 0.5), pitch * _between(rng, 0.22, 0.4)
        top = floor - height * value / TOP_VALUE
        fill = _paint(rng, int(rng.integers(len(COLOURS))), 12)
        draw.rectangle(((x - half) * SCALE, top * SCALE, (x + half) * SCALE, floor * SCALE), fill=fill)
    image = image.reduce(SCALE)
    return Scene(_finish(image, rng, _between(rng, 3, 10) + 25 * level, 0.1), values)
