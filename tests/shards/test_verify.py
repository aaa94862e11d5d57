"""The verify command: every damaged byte and row is found and named."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from shards.build import build
from shards.building.options import BuildOptions
from shards.building.writer import write_index
from shards.errors import DamagedShards
from shards.format.index import RECORD
from shards.open import open_index
from shards.verify import find_damage
from tests.support.commands import run_module
from tests.support.paths import SAMPLE


@pytest.fixture
def copied(shards, tmp_path) -> Path:
    folder = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(shards), str(folder)], check=True)
    return folder


def test_undamaged_shards_pass(copied):
    done = run_module("shards.verify", copied)
    assert (done.returncode, done.stderr) == (0, "")
    assert "whole" in done.stdout


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def cut_last_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def change_table(folder: Path) -> None:
    table = np.fromfile(folder / "index.bin", RECORD)
    table["width"][3] += 1
    table.tofile(folder / "index.bin")


def change_labels(folder: Path) -> None:
    """Write a row with a label that does not exist, and a header with the right checksum."""
    header = json.loads((folder / "index.json").read_text())
    table = np.fromfile(folder / "index.bin", RECORD)
    table["label"][3] = len(header["labels"])
    for name in ("index.json", "index.bin"):
        (folder / name).unlink()
    write_index(folder, header, table)


def change_header(folder: Path) -> None:
    header = json.loads((folder / "index.json").read_text())
    header["labels"] = header["labels"][::-1]
    (folder / "index.json").write_text(json.dumps(header))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: flip(f / "train-000001.tar"), "train-000001.tar: SHA-256"),
        (lambda f: cut(f / "train-000000.tar"), "train-000000.tar: "),
        (lambda f: (f / "train-000002.tar").unlink(), "train-000002.tar: is missing"),
        (lambda f: (f / "train-000900.tar").write_bytes(b""), "train-000900.tar: is not in"),
        (lambda f: cut(f / "index.bin"), "index.bin"),
        (lambda f: (f / "index.bin").unlink(), "index.bin"),
        (lambda f: (f / "index.json").unlink(), "index.json"),
        (lambda f: (f / "index.json").write_text("{"), "index.json: is damaged"),
        (lambda f: flip(f / "index.json"), "index.json: "),
        (lambda f: cut_last_byte(f / "index.json"), "index.json: was changed"),
        (change_table, "index.bin: SHA-256"),
        (change_labels, "sample 3 cannot be read: its row has a label"),
        (change_header, "cannot be read: json has"),
    ],
)
def test_each_damage_is_found(copied, damage, message):
    damage(copied)
    done = run_module("shards.verify", copied)
    assert done.returncode == 1
    assert message in done.stdout
    assert "Traceback" not in done.stderr


def test_any_changed_byte_is_found(tmp_path):
    folder = tmp_path / "small"
    build([SAMPLE], folder, BuildOptions(count=3, store="both", png_width=32, workers=1))
    rng = np.random.default_rng(0)
    for path in [*folder.glob("*.tar"), folder / "index.bin", folder / "index.json"]:
        original = path.read_bytes()
        for at in rng.integers(len(original), size=60):
            changed = bytearray(original)
            changed[at] ^= 1 << rng.integers(8)
            path.write_bytes(changed)
            assert list(find_damage(folder)), f"{path.name}: byte {at}"
        path.write_bytes(original)
    assert not list(find_damage(folder))


def test_a_truncated_table_is_refused_at_opening(copied):
    cut(copied / "index.bin")
    with pytest.raises(DamagedShards, match=r"index\.bin"):
        open_index(copied)
