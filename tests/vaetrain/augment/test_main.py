"""The command that draws the contact sheet of augmentations."""

import subprocess
import sys
from pathlib import Path

import pytest

from shards.build import build
from shards.building.options import BuildOptions
from shards.format.png import decode_png
from vaetrain.augment.__main__ import CAPTION, COLUMNS, GAP, LEVELS, WIDTH
from vaetrain.augmentation.operations import OPS

REPO = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sheet") / "shards"
    build([REPO / "shards" / "sample"], folder, BuildOptions(count=4, workers=1))
    return folder


def draw_sheet(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vaetrain.augment", *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60)


def test_every_operation_changes_its_pictures(shards, tmp_path):
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
        changed = [(picture(place, column) != unchanged).any() for column in range(len(LEVELS))]
        assert any(changed), name


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
