"""Duplicates, compared with a comparison of every pair of pages."""

import numpy as np
import pytest

from shards.building.dedupe import (
    CELLS,
    COLUMNS,
    LARGEST_DIFFERENCE,
    LARGEST_SHARE,
    ROWS,
    SAME_PROPORTIONS,
    UNIT,
    Duplicate,
    find_duplicates,
    signature_of_layout,
    signature_of_picture,
)
from shards.format.layout import Layout, parse_layout


def page(boxes: list, width: int = 640, height: int = 1280) -> Layout:
    children = [{"b": box} for box in boxes]
    return parse_layout({"w": width, "h": height, "r": {"b": [0, 0, width, height], "c": children}})


def duplicates(layouts: list[Layout], families: list[str] | None = None) -> list[Duplicate]:
    return list(
        find_duplicates(
            families or ["t"] * len(layouts),
            [layout.boxes.tobytes() for layout in layouts],
            [layout.height / layout.width for layout in layouts],
            [signature_of_layout(layout) for layout in layouts],
        )
    )


def test_the_raster_is_the_mean_depth_of_every_cell():
    layout = page([[40, 20, 20, 10], [320, 0, 320, 1280]])
    raster = signature_of_layout(layout).reshape(ROWS, COLUMNS) / UNIT
    expected = np.ones((ROWS, COLUMNS))  # the root; cells are 40 x 20 px
    expected[1, 1] += 0.25
    expected[:, 8:] += 1
    np.testing.assert_allclose(raster, expected)


def test_a_picture_has_the_raster_of_its_grey_values():
    gray = np.zeros((128, 64), np.uint8)
    gray[:64] = 51  # 8 layers of 40
    raster = signature_of_picture(gray).reshape(ROWS, COLUMNS) / UNIT
    np.testing.assert_allclose(raster[:32], 8, atol=1 / UNIT)
    assert (raster[32:] == 0).all()


CONTENT = [[20, 100 + 200 * n, 600, 150] for n in range(5)]


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (page([[20, 101 + 200 * n, 600, 150] for n in range(5)]), True),  # shifted by a pixel
        (page([*CONTENT, [30, 110, 60, 20]]), True),  # with one small box more
        (page([[20, 160 + 200 * n, 600, 150] for n in range(5)]), False),
        (page([*CONTENT, [20, 100, 600, 150]]), False),  # with one large box more
        (page(CONTENT, height=1400), False),
    ],
)
def test_near_duplicates_differ_by_small_changes_only(other, found):
    expected = [Duplicate(1, 0, exact=False)] if found else []
    assert duplicates([page(CONTENT), other]) == expected


def test_the_limit_is_tighter_for_pages_with_little_structure():
    """Two forms of one template that differ by a field are no duplicates."""
    field = [100, 100, 200, 40]
    assert duplicates([page([field]), page([field, [100, 180, 200, 40]])]) == []


def test_only_pages_of_one_family_are_compared():
    twice = [page(CONTENT), page(CONTENT)]
    assert duplicates(twice, ["a", "b"]) == []
    assert duplicates(twice, ["a", "a"]) == [Duplicate(1, 0, exact=True)]


def test_the_first_of_a_cluster_is_the_original_of_the_others():
    shifts = [page([[20, shift + 100, 600, 150]]) for shift in (0, 1, 0.5, 1, 0)]
    found = duplicates(shifts)
    assert [(duplicate.page, duplicate.of) for duplicate in found] == [(n, 0) for n in (1, 2, 3, 4)]
    assert [duplicate.exact for duplicate in found] == [False, False, False, True]


def by_every_pair(proportions: list[float], rasters: list[np.ndarray]) -> dict[int, int]:
    kept: list[int] = []
    found = {}
    signed = [raster.astype(np.int64) for raster in rasters]
    structure = [raster.sum() - CELLS * raster.min() for raster in signed]
    for page in range(len(rasters)):
        for other in kept:
            share = LARGEST_SHARE * max(structure[page], structure[other])
            ratio = max(proportions[page], proportions[other])
            ratio /= min(proportions[page], proportions[other])
            difference = np.abs(signed[page] - signed[other]).sum()
            if ratio <= SAME_PROPORTIONS and difference <= min(
                share, LARGEST_DIFFERENCE * UNIT * CELLS
            ):
                found[page] = other
                break
        else:
            kept.append(page)
    return found


def test_the_grid_finds_the_same_as_comparing_every_pair():
    draw = np.random.default_rng(0)
    bases = draw.integers(UNIT, 8 * UNIT, (12, CELLS))
    rasters, proportions = [], []
    for _ in range(400):
        # Of either sign, which the coarser raster hardly sees, or of one, which it sees in full.
        noise = draw.integers(-1 if draw.random() < 0.5 else 1, 2, CELLS) * draw.integers(0, 130)
        rasters.append((bases[draw.integers(12)] + noise).astype(np.uint16))
        proportions.append(1.5)
    names = [bytes([n // 256, n % 256]) for n in range(400)]
    found = list(find_duplicates([""] * 400, names, proportions, rasters))
    expected = by_every_pair(proportions, rasters)
    assert 50 < len(expected) < 388
    assert {duplicate.page: duplicate.of for duplicate in found} == expected
