"""The contact sheet of augmentations."""

import subprocess
import sys
from pathlib import Path

import pytest

from shards.build import build
from shards.building.options import BuildOptions
from shards.format.png import decode_png

REPO = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sheet") / "shards"
    build([REPO / "shards" / "sample"], folder, BuildOptions(count=4, workers=1))
    return folder


def sheet(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vaetrain.augment", *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60)


def test_it_is_drawn(shards, tmp_path):
    done = sheet(shards, "--sheet", tmp_path / "sheet.png")
    assert done.returncode == 0, done.stderr
    picture = decode_png((tmp_path / "sheet.png").read_bytes())
    assert picture.std() > 20


def test_mistakes_get_one_line(shards, tmp_path):
    for arguments, says, status in (
        ((shards, "--page", 99), "--page: 99 is not a sample id", 2),
        ((tmp_path / "nothing",), "index.json", 1),
    ):
        done = sheet(*arguments, "--sheet", tmp_path / "sheet.png")
        assert done.returncode == status
        (line,) = done.stderr.splitlines()
        assert says in line
