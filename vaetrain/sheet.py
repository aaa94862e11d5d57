"""Pages beside and below one another, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from shards.png import encode_png
from vaetrain.pictures import GAP, PAPER, as_grey


def cut_pages(images: Tensor, heights: Tensor) -> list[np.ndarray]:
    """Images (B, 1, H, W) in [0, 1] as B brightened pages, uint8 (height, W) without padding."""
    return [page[:height] for page, height in zip(as_grey(images), heights.tolist(), strict=True)]


def contact_sheet(pages: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Pages uint8 (height, W) of one width, in reading order, `columns` to a line.

    Returns: uint8 (height, width), white around the pages.
    """
    columns = min(columns, len(pages))
    step = pages[0].shape[1] + GAP
    lines = []
    for first in range(0, len(pages), columns):
        line = pages[first : first + columns]
        paper = np.full((max(map(len, line)) + GAP, columns * step), PAPER, np.uint8)
        for place, page in enumerate(line):
            paper[: len(page), place * step : (place + 1) * step - GAP] = page
        lines.append(paper)
    return np.concatenate(lines)


def write_sheet(path: Path, pages: Sequence[np.ndarray], columns: int = 8) -> None:
    """Write a contact sheet as a PNG file."""
    path.write_bytes(encode_png(contact_sheet(pages, columns)))
