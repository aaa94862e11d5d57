"""The inspect command: counts and a contact sheet."""

import subprocess
import sys
from pathlib import Path

import pytest

from shards.build import build
from shards.building.options import BuildOptions
from shards.format.png import decode_png

REPO = Path(__file__).resolve().parents[2]
SAMPLE = REPO / "shards" / "sample"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("built") / "shards"
    build([SAMPLE], out, BuildOptions(count=60, shard_mb=0.05, workers=1))
    return out


def run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)


def test_inspect_prints_counts_and_draws_a_sheet(built, tmp_path):
    done = run("shards.inspect", built, "--sheet", tmp_path / "sheet.png")
    assert done.returncode == 0, done.stderr
    assert "labels: " in done.stdout
    sheet = decode_png((tmp_path / "sheet.png").read_bytes())
    assert 20 < sheet.mean() < 240
    assert run("shards.inspect", tmp_path / "nothing").returncode == 1
