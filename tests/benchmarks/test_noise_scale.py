"""The noise scale command: the same result from one process and from two ranks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.support.commands import run_launched, run_module


def measured(ranks: int, seed: int, folder: Path, *settings: str) -> dict[str, float]:
    """Run the command at the start of the default experiment, and return its JSON file."""
    out = folder / f"{ranks}-{seed}.json"
    engine = "single" if ranks == 1 else "ddp"
    script = ["benchmarks/noise_scale.py", "--experiment", "default", "--pages", 384]
    run_launched(engine, *script, "--seed", seed, "--json", out, *settings)
    scale = json.loads(out.read_text())
    return {name: math.inf if value is None else value for name, value in scale.items()}


def test_a_run_without_checkpoint_is_refused_in_one_line(tmp_path):
    done = run_module("benchmarks.noise_scale", "--run", tmp_path)
    assert done.returncode == 2
    assert done.stderr.endswith(f"{tmp_path}: has no checkpoint; train it first\n")


@pytest.mark.slow
@pytest.mark.parametrize("start", ["components", "random"])
def test_two_ranks_measure_the_noise_scale_of_one_process(start, tmp_path):
    """From a PCA the gradient is small and the interval wide; from random weights narrow."""
    settings = [f"model.start={start}"]
    one, same, other = (
        measured(ranks, seed, tmp_path, *settings) for ranks, seed in ((1, 0), (2, 0), (2, 1))
    )
    # The same pages give the same number, other pages one within both intervals.
    assert same == pytest.approx(one, rel=1e-3)
    assert max(one["low"], other["low"]) < min(one["high"], other["high"])
    assert one["noise"] == pytest.approx(other["noise"], rel=0.2)
    if start == "random":
        assert one["high"] < 10 * one["low"]
