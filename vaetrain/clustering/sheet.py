"""Sheet of clusters: of each one its medoid, typical and atypical pages, and its spread."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from shards.contact_sheet import draw_text
from vaetrain.clustering.methods import NOISE

MAX_ROWS = 64  # clusters that are drawn, from the largest
TYPICAL, ATYPICAL = 4, 3  # pages, each of another template
PAGE_WIDTH, PAGE_ROWS = 128, 176  # px; the tops of taller pages are drawn
GAP, SECTION, MARGIN = 6, 26, 20  # px between pages, between parts of a row, around the sheet
NAMES_WIDTH, SPREAD_WIDTH, HEAD = 196, 190, 104  # px
BINS = 24
INK, FAINT, RULE, PAPER = (32, 33, 36), (112, 117, 122), (225, 227, 230), (255, 255, 255)
# Colours that are told apart in normal and in colour-blind vision (Okabe and Ito 2008).
COLOURS = (
    *((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167)),
    *((86, 180, 233), (213, 94, 0), (140, 120, 30)),
)


@dataclass(frozen=True)
class ClusterRow:
    """A row of the sheet.

    Attributes:
        cluster: its number, or `NOISE`.
        lines: of text beside it.
        medoid, typical, atypical: pages, uint8 (height, width) each.
        distances: float (M,), of its pages to its centre.
    """

    cluster: int
    lines: list[str]
    medoid: list[np.ndarray]
    typical: list[np.ndarray]
    atypical: list[np.ndarray]
    distances: np.ndarray


def shown_pages(
    labels: np.ndarray, distances: np.ndarray, groups: np.ndarray, cluster: int, medoid: int | None
) -> tuple[list[int], list[int]]:
    """Return the pages nearest to a cluster's centre and the farthest, each of another group.

    Args:
        labels, distances, groups: (N,).
        medoid: row of the medoid, which is not among them.

    Returns: at most `TYPICAL` and at most `ATYPICAL` rows; a page is in one of them.
    """
    rows = np.flatnonzero(labels == cluster)
    rows = rows[rows != medoid]
    rows = rows[np.argsort(distances[rows], kind="stable")]
    typical = [] if cluster == NOISE else _of_each_group(rows, groups)[:TYPICAL].tolist()
    rest = rows[~np.isin(rows, typical)][::-1]
    return typical, _of_each_group(rest, groups)[:ATYPICAL].tolist()


def _of_each_group(rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the first row of each group, in the order of `rows`."""
    return rows[np.sort(np.unique(groups[rows], return_index=True)[1])]


def draw_clusters(title: str, subtitle: str, rows: Sequence[ClusterRow]) -> bytes:
    """Draw the sheet: a PNG file."""
    lefts = _columns()
    width = lefts["end"] + MARGIN
    step = PAGE_ROWS + SECTION
    sheet = Image.new("RGB", (width, HEAD + len(rows) * step + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    draw_text(pen, (MARGIN, 12), title, 20, INK)
    draw_text(pen, (MARGIN, 38), subtitle, 12, FAINT)
    heads = {
        "medoid": "medoid",
        "typical": "nearest to the centre, each of another template",
        "atypical": "farthest from the centre",
        "spread": "distances to the centre",
    }
    for name, text in heads.items():
        draw_text(pen, (lefts[name], HEAD - 34), text, 12, FAINT)
    distances = np.concatenate([row.distances for row in rows])
    scale = float(distances.min()), max(float(distances.max()), float(distances.min()) + 1e-3)
    for place, row in enumerate(rows):
        _draw_row(sheet, pen, row, HEAD + place * step, lefts, scale)
    content = io.BytesIO()
    sheet.save(content, "PNG", optimize=True)
    return content.getvalue()


def _columns() -> dict[str, int]:
    """Return the left edge of each column of the sheet, px, and the right end of the last."""
    lefts, left = {}, MARGIN + NAMES_WIDTH
    for name, pages in (("medoid", 1), ("typical", TYPICAL), ("atypical", ATYPICAL)):
        lefts[name] = left
        left += pages * (PAGE_WIDTH + GAP) - GAP + SECTION
    return lefts | {"spread": left, "end": left + SPREAD_WIDTH}


def _draw_row(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    row: ClusterRow,
    top: int,
    lefts: dict[str, int],
    scale: tuple[float, float],
) -> None:
    colour = FAINT if row.cluster == NOISE else COLOURS[row.cluster % len(COLOURS)]
    pen.line((MARGIN, top - SECTION // 2 + 4, lefts["end"], top - SECTION // 2 + 4), RULE)
    pen.rectangle((MARGIN, top, MARGIN + 5, top + PAGE_ROWS - 1), colour)
    name = "noise" if row.cluster == NOISE else f"cluster {row.cluster}"
    draw_text(pen, (MARGIN + 16, top), name, 20, INK)
    for place, line in enumerate(row.lines):
        draw_text(pen, (MARGIN + 16, top + 30 + 16 * place), shortened(line), 12, INK)
    for name in ("medoid", "typical", "atypical"):
        for place, page in enumerate(getattr(row, name)):
            left = lefts[name] + place * (PAGE_WIDTH + GAP)
            _draw_page(sheet, pen, page, (left, top), colour if name == "medoid" else None)
    _draw_spread(pen, row.distances, scale, (lefts["spread"], top), colour)


def shortened(text: str, limit: int = 27) -> str:
    """Return a text of at most `limit` characters; three dots stand for the rest."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _draw_page(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    page: np.ndarray,
    corner: tuple[int, int],
    frame: tuple[int, int, int] | None,
) -> None:
    """Draw a page at `PAGE_WIDTH`, cut below `PAGE_ROWS`; a dotted edge shows that it is cut."""
    picture = Image.fromarray(page)
    if page.shape[1] != PAGE_WIDTH:
        size = (PAGE_WIDTH, max(1, round(len(page) * PAGE_WIDTH / page.shape[1])))
        picture = picture.resize(size, Image.Resampling.BOX)
    is_cut = picture.height > PAGE_ROWS
    picture = picture.crop((0, 0, PAGE_WIDTH, min(picture.height, PAGE_ROWS)))
    sheet.paste(picture, corner)
    left, top = corner
    if is_cut:
        for x in range(left, left + PAGE_WIDTH, 8):
            pen.line((x, top + PAGE_ROWS - 1, x + 3, top + PAGE_ROWS - 1), PAPER, 2)
    if frame is not None:
        box = (left - 3, top - 3, left + PAGE_WIDTH + 2, top + picture.height + 2)
        pen.rectangle(box, outline=frame, width=3)


def _draw_spread(
    pen: ImageDraw.ImageDraw,
    distances: np.ndarray,
    scale: tuple[float, float],
    corner: tuple[int, int],
    colour: tuple[int, int, int],
) -> None:
    """Draw a histogram of distances on a scale that all rows share, with the median."""
    left, top = corner
    counts, _ = np.histogram(distances, BINS, scale)
    foot, full = top + PAGE_ROWS - 34, PAGE_ROWS - 60
    step = SPREAD_WIDTH // BINS
    for place, count in enumerate(counts):
        if count:
            high = max(1, round(full * count / counts.max()))
            x = left + place * step
            pen.rectangle((x, foot - high, x + step - 2, foot - 1), colour)
    pen.line((left, foot, left + BINS * step, foot), FAINT)
    draw_text(pen, (left, foot + 4), f"{scale[0]:.2f}", 11, FAINT)
    draw_text(pen, (left + BINS * step - 22, foot + 4), f"{scale[1]:.2f}", 11, FAINT)
    if len(distances):
        median = float(np.median(distances))
        x = left + round((median - scale[0]) / (scale[1] - scale[0]) * BINS * step)
        pen.line((x, top + 18, x, foot), INK)
        draw_text(
            pen, (min(x + 4, left + BINS * step - 76), top + 8), f"median {median:.2f}", 11, INK
        )
