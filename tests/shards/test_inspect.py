"""The inspect command: counts and a contact sheet."""

from shards.format.png import decode_png
from tests.support.commands import run_module


def test_inspect_prints_counts_and_draws_a_sheet(shards, tmp_path):
    done = run_module("shards.inspect", shards, "--sheet", tmp_path / "sheet.png")
    assert done.returncode == 0, done.stderr
    assert "labels: " in done.stdout
    sheet = decode_png((tmp_path / "sheet.png").read_bytes())
    assert 20 < sheet.mean() < 240
    assert run_module("shards.inspect", tmp_path / "nothing").returncode == 1
