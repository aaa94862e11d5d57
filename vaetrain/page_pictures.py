"""Pages as grey pictures: brightened pages, error maps, contact sheets and rows of pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shards.format.png import encode_png

BRIGHTNESS = 2.5  # real pages use less than half of the grey range
ERROR_BRIGHTNESS = 10.0  # errors of reconstructions are seldom over a tenth of the range
GAP = 4  # pixels between pictures
PAPER = 255  # grey of the background


def as_grey(images: Tensor) -> np.ndarray:
    """Convert images (B, 1, H, W) in [0, 1] to brightened uint8 (B, H, W)."""
    return _grey(images * BRIGHTNESS)


def error_map(images: Tensor, others: Tensor) -> np.ndarray:
    """Return the absolute differences of images (B, 1, H, W), brightened, uint8 (B, H, W)."""
    return _grey((images - others).abs() * ERROR_BRIGHTNESS)


def _grey(images: Tensor) -> np.ndarray:
    grey = images.detach().float().clamp(0, 1) * 255
    return grey.round().to(torch.uint8).squeeze(1).cpu().numpy()


def cut_pages(images: Tensor, heights: Tensor) -> list[np.ndarray]:
    """Convert images (B, 1, H, W) in [0, 1] to brightened pages without padding.

    Returns: B pictures, uint8 (height, W).
    """
    return [page[:height] for page, height in zip(as_grey(images), heights.tolist(), strict=True)]


def depth_pages(images: Tensor, heights: Tensor) -> list[np.ndarray]:
    """Convert images (B, 1, H, W) to pages without padding: float32 (height, W) in [0, 1]."""
    depth = images.detach().float().clamp(0, 1)[:, 0].cpu().numpy()
    return [page[:height] for page, height in zip(depth, heights.tolist(), strict=True)]


def contact_sheet(pages: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Arrange pages uint8 (height, W) of one width in reading order, `columns` a line.

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


def rows_of_pages(rows: list[np.ndarray], heights: np.ndarray) -> np.ndarray:
    """Arrange pictures of the same pages in columns, one row of pictures below the other.

    Args:
        rows: uint8 (B, H, W) each; column b shows page b of every row.
        heights: (B,), rows of each page; its padding becomes white.

    Returns: uint8 (height, width), white between and below the pages.
    """
    tallest = int(heights.max())
    lines = []
    for row in rows:
        columns = []
        for page, height in zip(row, heights, strict=True):
            column = np.full((tallest + GAP, page.shape[1] + GAP), PAPER, np.uint8)
            column[:height, : page.shape[1]] = page[:height]
            columns.append(column)
        lines.append(np.concatenate(columns, axis=1))
    return np.concatenate(lines, axis=0)
