"""The throughput and kernel benchmarks: FLOPs by hand, and whole quick runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import profile_kernels, throughput
from benchmarks.support import report, traces
from benchmarks.support.flops import model_flops
from vaetrain.model.config import ModelConfig


def test_flops_of_convolutions_grow_with_rows_and_pages():
    config = ModelConfig(attention="none", latent_dim=8)
    flops = {
        (pages, rows): model_flops(config, 64, 256, pages, rows)
        for pages, rows in ((1, 64), (2, 64), (1, 128), (1, 192))
    }
    assert flops[2, 64] == 2 * flops[1, 64]
    # What reaches down the whole grid does not grow; all else does by as much for as many rows.
    assert flops[1, 192] - flops[1, 128] == flops[1, 128] - flops[1, 64] > 0.7 * flops[1, 64]


def run(name: str, folder: Path, *arguments: str) -> tuple[dict, str]:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--out", str(folder)]
    done = subprocess.run([*command, *arguments], check=True, capture_output=True, text=True)
    told = json.loads((folder / f"{name}.json").read_text())
    report.check(told)
    assert report.table(told) in done.stdout
    picture = np.asarray(Image.open(folder / f"{name}.png").convert("L"))
    assert picture.std() > 20
    return told, done.stdout


def names(told: dict, group: str) -> set[str]:
    return {entry["name"] for entry in told["results"] if entry["group"] == group}


@pytest.mark.slow
def test_the_quick_throughput_of_two_engines(tmp_path):
    told, _ = run("throughput", tmp_path, "--engines", "single", "ddp")
    ours = {"ours, single", "ours, ddp"}
    assert names(told, throughput.RATES) == {*ours, throughput.BARE, throughput.UNMASKED}
    for group in ("valid pixels per second", "model FLOP utilisation", "memory of a rank"):
        assert names(told, group) == ours
    steps = {"forward", "backward", "waiting for data", "validation", "logging"}
    assert names(told, "share of a step, single") > steps
    assert "of it all, waiting for other ranks" in names(told, "share of a step, ddp")
    shares = [e["median"] for e in told["results"] if e["group"] == "share of a step, single"]
    assert sum(shares) == pytest.approx(100, rel=0.05)
    pairs = {(entry["name"], entry["against"]) for entry in told["comparisons"]}
    assert pairs == {
        ("ours, single", throughput.BARE),
        (throughput.BARE, throughput.UNMASKED),
        ("ours, ddp", "ours, single"),
    }
    utilisation = [e for e in told["results"] if e["group"] == "model FLOP utilisation"]
    assert all(0 < entry["median"] < 100 for entry in utilisation)


@pytest.mark.slow
def test_the_quick_profile_and_what_it_leaves(tmp_path):
    told, printed = run("profile_kernels", tmp_path, "model.attention=cbam")
    assert names(told, profile_kernels.GROUP) >= {
        *("convolution", "normalisation", "attention", "pooling", "linear layers", "optimizer"),
        *("drawing", "augmentation", "loss: ssim", "loss: l1", traces.OVERHEAD),
    }
    assert "operations that take longest" in printed
    trace = tmp_path / profile_kernels.TRACE
    assert len(traces.read(trace).steps) == profile_kernels.QUICK_STEPS
    command = [sys.executable, "-m", "benchmarks.profile_kernels", "--compare", trace, trace]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].split()[-1] == "+0.000"


def test_a_mistake_is_one_line(tmp_path):
    command = [sys.executable, "-m", "benchmarks.throughput", "--quick", "--out", str(tmp_path)]
    done = subprocess.run([*command, "model.size=huge"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "model.size" in done.stderr
    assert done.stderr.count("\n") == 1
