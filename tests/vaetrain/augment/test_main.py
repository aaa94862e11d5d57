"""The command that draws the contact sheet of augmentations."""

import functools

import pytest

from shards.format.png import decode_png
from tests.support.commands import run_module
from vaetrain.augment.__main__ import CAPTION, COLUMNS, GAP, LEVELS, WIDTH
from vaetrain.augmentation.operations import OPS

draw_sheet = functools.partial(run_module, "vaetrain.augment")


def test_every_operation_is_drawn_at_strengths_that_differ(shards, tmp_path):
    done = draw_sheet(shards, "--sheet", tmp_path / "sheet.png")
    assert done.returncode == 0, done.stderr
    sheet = decode_png((tmp_path / "sheet.png").read_bytes()).squeeze()
    cell_width = len(LEVELS) * (WIDTH + GAP) + 2 * GAP
    cell_height = (sheet.shape[0] - GAP) // -(-(len(OPS) + 1) // COLUMNS)

    def picture(place: int, column: int):
        left = GAP + place % COLUMNS * cell_width + column * (WIDTH + GAP)
        top = GAP + place // COLUMNS * cell_height + CAPTION
        return sheet[top : top + cell_height - CAPTION - GAP, left : left + WIDTH]

    unchanged = picture(0, 0)
    assert unchanged.std() > 5
    for place, name in enumerate(OPS, 1):
        pictures = [picture(place, column) for column in range(len(LEVELS))]
        assert any((drawn != unchanged).any() for drawn in pictures), name
        if OPS[name].is_graded:
            assert (pictures[0] != pictures[-1]).any(), name
        else:
            assert (pictures[1] == 255).all(), name  # drawn once


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (("{shards}", "--page", 99), "--page: 99 is not a sample id", 2),
        (("{tmp_path}/nothing",), "index.json", 1),
    ],
)
def test_mistakes_are_reported_in_one_line(shards, tmp_path, arguments, message, status):
    arguments = [str(item).format(shards=shards, tmp_path=tmp_path) for item in arguments]
    done = draw_sheet(*arguments, "--sheet", tmp_path / "sheet.png")
    assert done.returncode == status
    (line,) = done.stderr.splitlines()
    assert message in line
