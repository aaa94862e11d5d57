"""Small grey charts, uint8 (height, width), black on white: bars, matrices and histograms.

They are drawn with Pillow, so that training does not need matplotlib. A chart has no title: a
tracker shows it under its name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from vaetrain.page_pictures import PAPER

INK, BAR, LINE = 0, 96, 220  # greys of text, of bars, and of the scale's lines
WIDTH, HEIGHT = 512, 160  # pixels of the plotting area
MARGIN, LETTER = 48, 16  # pixels beside and below it, for the scale
BIN, BIN_ROWS, BINS = 4, 64, 32  # pixels: width of a bin, height of the highest; number of bins
RANGE = 4.0  # histograms show values from -RANGE to RANGE


def ticks(largest: float) -> np.ndarray:
    """Return a scale from 0 to `largest` or the next round number above it: 3 to 6 values."""
    if not 0 < largest < math.inf:
        return np.array([0.0, 1.0])
    power = 10.0 ** math.floor(math.log10(largest / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= largest / 4.001)
    return step * np.arange(math.ceil(largest / step - 1e-9) + 1)


def bars(values: np.ndarray, caption: str, marks: dict[str, float] | None = None) -> np.ndarray:
    """Draw a bar chart in the given order, on a scale from 0.

    Args:
        values: (K,), not negative; non-finite values have no bar.
        caption: quantity or unit.
        marks: reference values by name, drawn as dashed lines.
    """
    values, marks = np.where(np.isfinite(values), values, 0.0), marks or {}
    step = max(1, min(24, WIDTH // len(values)))
    width = max(step * len(values), WIDTH // 4)
    scale = ticks(max(float(values.max()), *marks.values(), 0.0))
    image = Image.new("L", (width + 2 * MARGIN, HEIGHT + 3 * LETTER), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((4, LETTER // 2), caption, INK, anchor="lm")
    foot = 2 * LETTER + HEIGHT

    def level(value: float) -> int:
        return foot - round(HEIGHT * float(value / scale[-1]))

    for value in scale:
        draw.line((MARGIN, level(value), MARGIN + width, level(value)), LINE)
        draw.text((MARGIN - 6, level(value)), f"{value:.4g}", INK, anchor="rm")
    for place, value in enumerate(values):
        if level(value) < foot:
            left = MARGIN + place * step
            draw.rectangle((left, level(value), left + max(step - 2, 0), foot - 1), BAR)
    for name, value in marks.items():
        for left in range(MARGIN, MARGIN + width, 8):
            draw.line((left, level(value), left + 3, level(value)), INK)
        draw.text((MARGIN + width + 4, level(value)), name, INK, anchor="lm")
    for place in sorted({0, len(values) // 2, len(values) - 1}):
        middle = MARGIN + place * step + step // 2
        draw.text((middle, foot + LETTER // 2), str(place + 1), INK, anchor="mm")
    return np.asarray(image)


def matrix(values: np.ndarray) -> np.ndarray:
    """Draw a square matrix of values from 0, white, to 1, black, with its scale beside it.

    Args:
        values: (K, K), K at least 1.
    """
    cell = max(1, WIDTH // 2 // len(values))
    table = np.kron(_darkness(values), np.ones((cell, cell), np.uint8))
    side = max(len(table), 64)
    image = Image.new("L", (side + 2 * MARGIN, side + LETTER), PAPER)
    image.paste(Image.fromarray(table), (LETTER // 2, LETTER // 2))
    draw = ImageDraw.Draw(image)
    draw.rectangle([LETTER // 2 - 1] * 2 + [LETTER // 2 + len(table)] * 2, outline=LINE)
    left, strip = side + LETTER, np.repeat(np.linspace(1, 0, side)[:, None], LETTER, axis=1)
    image.paste(Image.fromarray(_darkness(strip)), (left, LETTER // 2))
    draw.rectangle((left - 1, LETTER // 2 - 1, left + LETTER, LETTER // 2 + side), outline=LINE)
    for value in (0, 0.5, 1):
        height = LETTER // 2 + round((1 - value) * (side - 1))
        draw.text((left + LETTER + 6, height), f"{value:g}", INK, anchor="lm")
    return np.asarray(image)


def histograms(columns: np.ndarray, names: Sequence[str], across: int = 4) -> np.ndarray:
    """Draw a histogram of each column in reading order, with the density of N(0, 1) as a line.

    Values beyond the range count in the outer bins. Each histogram has its own scale, up to the
    highest bin or the line's highest point.

    Args:
        columns: (N, K), finite.
        names: names of the K columns.
        across: histograms a line.
    """
    width, height = BIN * BINS + LETTER, BIN_ROWS + 2 * LETTER + LETTER // 2
    lines = math.ceil(len(names) / across)
    image = Image.new("L", (width * min(across, len(names)) + LETTER, height * lines), PAPER)
    draw = ImageDraw.Draw(image)
    for place, name in enumerate(names):
        corner = LETTER + place % across * width, place // across * height
        _histogram(draw, corner, columns[:, place], name)
    return np.asarray(image)


def _histogram(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], values: np.ndarray, name: str
) -> None:
    """Draw one histogram with its upper left corner at (x, y)."""
    left, top = corner
    foot = top + LETTER + BIN_ROWS
    edges = np.linspace(-RANGE, RANGE, BINS + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    counts, _ = np.histogram(np.clip(values, -RANGE, RANGE), edges)
    shares = counts / len(values)
    normal = np.exp(-np.square(centres) / 2) / math.sqrt(2 * math.pi) * (edges[1] - edges[0])
    unit = BIN_ROWS / max(shares.max(), normal.max())
    for place, share in enumerate(shares):
        if round(share * unit):
            x = left + place * BIN
            draw.rectangle((x, foot - round(share * unit), x + BIN - 1, foot - 1), BAR)
    curve = zip((left + BIN * (np.arange(BINS) + 0.5)), foot - normal * unit, strict=True)
    draw.line([(float(x), float(y)) for x, y in curve], INK)
    draw.line((left, foot, left + BIN * BINS, foot), INK)
    draw.text((left + BIN * BINS // 2, top + LETTER // 2), name, INK, anchor="mm")
    for value in (-RANGE, 0, RANGE):
        x = left + round((value + RANGE) / (2 * RANGE) * BIN * BINS)
        draw.text((x, foot + LETTER // 2), f"{value:g}", INK, anchor="mm")


def _darkness(values: np.ndarray) -> np.ndarray:
    """Convert values from 0, white, to 1, black, to uint8."""
    return np.round(PAPER * (1 - np.clip(values, 0, 1))).astype(np.uint8)
