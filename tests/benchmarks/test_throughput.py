"""The throughput benchmark: utilisation by hand, wrong settings, and a quick run."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks import throughput
from benchmarks.support.device_peak import Peak
from tests.benchmarks.quick_run import names_of, quick_run
from tests.support.commands import run_module
from vaetrain.model.config import ModelConfig


@pytest.mark.parametrize(("device", "share"), [("cpu", 40.0), ("cuda:0", 20.0)])
def test_ranks_on_a_cpu_share_its_peak_and_gpus_have_their_own(device, share, monkeypatch):
    monkeypatch.setattr(throughput, "model_flops", lambda model, width, top, pages, rows: 1000)
    about = {"model": dataclasses.asdict(ModelConfig()), "max_height": 64, "device": device}
    about |= {"ranks": 2, "parameters": 7}
    # Two batches a rank of four pages: 2,000 FLOPs of a rank for 16 images, at 8 images/s.
    counts = [{"images": 16, "pixels": 4e6, "sizes": {(4, 64, 64): 2}}]
    peak = Peak(flops=5000, bandwidth=1, results=[])
    pixels, shares = throughput.utilisation("ddp", [8.0], counts, about, peak)
    assert pixels["rounds"] == [2.0]
    assert pixels["notes"] == {"parameters": 7, "ranks": 2}
    assert shares["rounds"] == [share]


@pytest.mark.slow
def test_quick_run_of_two_engines(tmp_path):
    record, _ = quick_run("throughput", tmp_path, "--engines", "single", "ddp")
    ours = {"ours, single", "ours, ddp"}
    assert names_of(record, throughput.RATES) == {*ours, throughput.BARE, throughput.UNMASKED}
    for group in ("valid pixels per second", "model FLOP utilisation", "memory of a rank"):
        assert names_of(record, group) == ours
    phases = {"forward", "backward", "waiting for data", "validation", "logging"}
    assert names_of(record, "share of a step, single") > phases
    assert "of it all, waiting for other ranks" in names_of(record, "share of a step, ddp")
    shares = [e["median"] for e in record["results"] if e["group"] == "share of a step, single"]
    assert sum(shares) == pytest.approx(100, rel=0.05)
    pairs = {(entry["name"], entry["against"]) for entry in record["comparisons"]}
    assert pairs == {
        ("ours, single", throughput.BARE),
        (throughput.BARE, throughput.UNMASKED),
        ("ours, ddp", "ours, single"),
    }
    utilisation = [e for e in record["results"] if e["group"] == "model FLOP utilisation"]
    assert all(0 < entry["median"] < 100 for entry in utilisation)


def test_a_wrong_setting_is_refused_in_one_line(tmp_path):
    quick = ("--quick", "--out", tmp_path)
    done = run_module("benchmarks.throughput", *quick, "model.size=huge")
    assert done.returncode == 2
    assert "model.size" in done.stderr
    assert done.stderr.count("\n") == 1
