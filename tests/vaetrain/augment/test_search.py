"""The command that searches for an augmentation policy, on a real but small search."""

import functools
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from shards.build import build
from shards.building.options import BuildOptions
from tests.support.commands import run_module
from tests.support.paths import SAMPLE
from vaetrain.augmentation.config import AugmentConfig
from vaetrain.augmentation.policy import load_policy

SMALL = (
    "data.width=64",
    "data.max_height=128",
    "data.val_templates=[]",
    "data.workers=0",
    "model.latent_dim=8",
    "model.start=random",
    "train.global_batch_size=8",
    "lr.warmup_epochs=0.1",
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("search") / "shards"
    build([SAMPLE], folder, BuildOptions(count=40, workers=1))
    return folder


search = functools.partial(run_module, "vaetrain.augment.search")


@pytest.fixture(scope="module")
def first_search(shards) -> subprocess.CompletedProcess[str]:
    """A search over three policies, in one round."""
    settings = (f"data.shards={shards}", *SMALL)
    return search("--trials", 3, "--images", 16, *settings)


def test_search_writes_the_best_policy_where_auto_finds_it(shards, first_search):
    assert first_search.returncode == 0, first_search.stderr
    rows = [json.loads(line) for line in (shards / "policy.trials.jsonl").read_text().splitlines()]
    assert [row["images"] for row in rows] == [16, 16, 16]
    assert [row["policy"] == {} for row in rows] == [True, False, False]
    assert len({row["loss"] for row in rows}) == 3
    best = min(rows, key=lambda row: row["loss"])
    policy = load_policy(AugmentConfig(policy="auto"), shards)
    assert policy == load_policy(AugmentConfig(policy=str(shards / "policy.yaml")))
    assert policy.as_dict()["chances"] == best["policy"]
    printed = [float(line.split("\t")[0]) for line in first_search.stdout.splitlines()[:-1]]
    assert printed == pytest.approx(sorted(row["loss"] for row in rows), rel=1e-5)
    assert first_search.stdout.splitlines()[-1].endswith("train with augment.policy=auto")
    assert re.search(r"^threads: [1-9]", first_search.stderr, re.MULTILINE)


def test_repeated_search_trains_nothing_again(shards, first_search, tmp_path):
    copy = tmp_path / "again.trials.jsonl"
    shutil.copy(shards / "policy.trials.jsonl", copy)
    before, out = copy.read_bytes(), tmp_path / "again.yaml"
    settings = ("--trials", 3, "--images", 16, f"data.shards={shards}", *SMALL)
    again = search(*settings, "--out", out)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[:-1] == first_search.stdout.splitlines()[:-1]
    assert copy.read_bytes() == before
    assert out.read_bytes() == (shards / "policy.yaml").read_bytes()


def test_mistakes_are_reported_in_one_line_and_leave_no_files(shards, tmp_path):
    (tmp_path / "odd.trials.jsonl").write_text("[3")
    for arguments, message in (
        (("--trials", 1), "must be a whole number in 2.."),
        ((f"data.shards={tmp_path}",), "index.json"),
        (("data.width=x",), "data.width: 'x' is not a whole number"),
        (("--experiment", "nothing.yaml"), "there is no such experiment file"),
        (("--out", tmp_path / "no" / "p.yaml"), "there is no folder"),
        ((f"data.shards={shards}", "--out", tmp_path / "odd.yaml"), "is not a table of trials"),
        ((f"data.shards={shards}", "data.width=100"), "data.width: 100 is not a multiple"),
    ):
        done = search(*arguments)
        assert done.returncode == (1 if message == "index.json" else 2), done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("vaetrain.augment.search: ")
        assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["odd.trials.jsonl"]
