"""Diagnosis of a machine: plans, time limits, statuses, table and JSON, and its checks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch import doctor
from launch.diagnosis import device_path, machine, runner, step_checks, support, tool_checks
from launch.diagnosis.checks import CHECKS
from launch.diagnosis.machine import Gpu, Machine
from launch.diagnosis.outcome import FAILED, HELD, SKIPPED, Failed, Held, Result, Skipped
from launch.diagnosis.registry import Check
from launch.diagnosis.trainings import Workbench, largest_difference, require_at_most
from vaetrain.engines.engine_files import engine_names

REPO = Path(__file__).resolve().parents[2]


def a_machine(gpus: int = 0) -> Machine:
    return Machine(gpus=(Gpu("H100", 80.0, "9.0"),) * gpus, compiler="/usr/bin/c++")


def plans(gpus: int) -> dict[str, str]:
    lines = runner.plan(CHECKS.values(), a_machine(gpus))
    return dict(line.split(maxsplit=1) for line in lines)


def a_check(name: str, seconds: float = 60.0, skipped: str | None = None) -> Check:
    def plan(_: Machine) -> str:
        if skipped:
            raise Skipped(skipped)
        return "something"

    return Check(name, seconds, plan, lambda bench: Held(""))


def test_plan_without_a_gpu():
    planned = plans(0)
    assert planned["engine_zero3"].startswith("6 steps on 2 ranks on the CPU (gloo)")
    assert "fake CUDA tensors" in planned["device_path"]
    assert planned["precision_fp16"] == "skipped: needs a GPU"
    assert "aot_eager" in planned["compile"]
    assert planned["cuda_tests"] == "skipped: needs a GPU"


def test_plan_for_one_gpu():
    planned = plans(1)
    assert planned["engine_zero3"].startswith("6 steps on one GPU, world size 1")
    assert planned["engine_ddp"].startswith("6 steps on one GPU, world size 1")
    assert planned["resume"].startswith("single on one GPU")
    assert "must not wait" in planned["device_path"]
    assert "in fp16: finite losses, the first one close" in planned["precision_fp16"]
    assert "in bf16: losses close" in planned["precision_bf16"]


def test_plan_for_eight_gpus():
    planned = plans(8)
    for name in ("engine_ddp", "engine_fsdp2", "engine_zero1_offload"):
        assert planned[name].startswith("6 steps on 8 GPUs (NCCL)")
    assert planned["offload"].startswith("zero3_offload: 6 steps on 8 GPUs (NCCL)")
    assert not [text for text in planned.values() if text.startswith("skipped: needs a GPU")]


def test_plan_names_the_number_of_unused_gpus():
    assert plans(6)["engine_ddp"].startswith("6 steps on 4 of 6 GPUs (NCCL)")


@pytest.mark.parametrize(("gpus", "ranks"), [(0, 2), (1, 1), (2, 2), (3, 2), (7, 4), (8, 8)])
def test_ranks_divide_the_global_batch(gpus, ranks):
    assert a_machine(gpus).ranks == ranks


def test_every_engine_and_precision_is_reported():
    engines, precisions = support.describe(a_machine(1))
    assert engines == f"engines that can run: {', '.join(engine_names())}"
    assert precisions == "precisions that can run: fp32, bf16, fp16"
    lines = list(support.describe(Machine(has_bf16=False)))
    assert lines[1:] == [
        "precisions that can run: fp32",
        "precision bf16 cannot run: needs GPUs of compute capability 8.0",
        "precision fp16 cannot run: needs a GPU",
    ]


def test_missing_extras_are_named_with_their_command(monkeypatch):
    for module in (tool_checks, support):
        monkeypatch.setattr(module, "has_module", lambda name: False)
    assert plans(0)["export"].endswith("pip install -e '.[export]'")
    assert plans(0)["throughput"].endswith("pip install -e '.[bench]'")
    assert "deepspeed is not installed" in plans(0)["engine_zero1"]


def test_facts_of_this_machine():
    here = machine.gather()
    assert here.affinity == len(os.sched_getaffinity(0))
    assert here.gib > 0
    text = "\n".join(machine.describe(here))
    assert all(f"{name} " in text for name in machine.TESTED)
    older = Machine(versions={"torch": "2.6.0", "deepspeed": None, "accelerate": "1.15.0"})
    assert list(machine.describe(older))[-3:] == [
        "as tested: accelerate 1.15.0",
        "torch 2.6.0, but tested with 2.14.1",
        "deepspeed is not installed, but tested with 0.19.8",
    ]


@pytest.mark.parametrize("gpus", [0, 2])
def test_facts_are_passed_to_the_process_of_a_check(gpus, tmp_path):
    a_machine(gpus).write(tmp_path / machine.MACHINE_FILE)
    assert Machine.read(tmp_path / machine.MACHINE_FILE) == a_machine(gpus)


@pytest.mark.parametrize("name", ["precision_fp32", "engine_zero3", "resume", "vaegan_r1"])
def test_checks_that_only_start_trainings_do_not_import_torch(name):
    """Its import by every check's process took more time than some trainings."""
    code = (
        "import sys, launch.diagnosis.one_check\n"
        "from launch.diagnosis.registry import find\n"
        f"find({name!r})\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)


def test_results_table_and_json(tmp_path):
    results = [
        Result("a", HELD, "equal", 1.5, 2.5, {"difference": 0.25}),
        Result("b", SKIPPED, "needs a GPU"),
    ]
    assert runner.exit_status(results) == 0
    assert runner.table(results).splitlines() == [
        "a                         1.5 s  held: equal",
        "b                         0.0 s  skipped: needs a GPU",
        "1 held, 1 skipped in 2 s (CPU time 2 s)",
    ]
    results.append(Result("c", FAILED, "differs", 2.0))
    assert runner.exit_status(results) == 1
    runner.write_json(results, tmp_path / "found.json")
    entries = json.loads((tmp_path / "found.json").read_text())
    assert entries[0] == {
        "check": "a", "status": "held", "reason": "equal", "seconds": 1.5, "cpu_seconds": 2.5,
        "difference": 0.25,
    }  # fmt: skip
    assert [entry["status"] for entry in entries] == ["held", "skipped", "failed"]


@pytest.mark.parametrize(("minutes", "status"), [(9.0, SKIPPED), (10.0, FAILED)])
def test_checks_without_time_left(minutes, status, tmp_path, monkeypatch):
    """They are skipped only if less time than the default was given."""
    clock = iter([0.0, 60 * minutes - 5, 60 * minutes + 1])
    monkeypatch.setattr(runner.time, "monotonic", lambda: next(clock))
    given = []

    def run(check: Check, machine: Machine, folder: Path, seconds: float) -> Result:
        given.append(seconds)
        return Result(check.name, FAILED, "out of time", seconds)

    checks = [a_check("cut off"), a_check("late"), a_check("impossible", skipped="needs a GPU")]
    results = list(runner.run_checks(checks, a_machine(), tmp_path, minutes, run))
    assert given == [5.0]
    assert [result.status for result in results] == [status, status, SKIPPED]
    assert results[0].reason == "no time left: stopped after 5 s"
    assert results[1].reason == "no time left"
    assert results[2].reason == "needs a GPU"


def test_time_limit_kills_a_check_with_its_children(tmp_path):
    child = tmp_path / "child"
    code = (
        "import pathlib, subprocess, sys, time\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "process = subprocess.Popen(sleep, start_new_session=True)\n"
        f"pathlib.Path({str(child)!r}).write_text(str(process.pid))\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code]
    result = runner.run_check(a_check("endless"), a_machine(), tmp_path, 3.0, command)
    assert (result.status, result.seconds) == (FAILED, 3.0)
    assert result.reason.startswith("out of time after 3 s")
    state = Path("/proc", child.read_text(), "stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_check_that_crashes_has_failed_with_its_error(tmp_path):
    command = [sys.executable, "-c", "raise RuntimeError('no kernel image')"]
    result = runner.run_check(a_check("crash"), a_machine(), tmp_path, 60.0, command)
    assert result.status == FAILED
    assert result.reason == "ended with status 1: RuntimeError: no kernel image"


def test_check_runs_in_a_process_of_its_own(tmp_path):
    result = runner.run_check(CHECKS["precision_fp16"], a_machine(), tmp_path, 120.0)
    assert (result.status, result.reason) == (SKIPPED, "needs a GPU")
    assert 0 < result.cpu_seconds < 60


def test_device_path_holds_and_notices_a_tensor_on_the_cpu(tmp_path, monkeypatch):
    bench = Workbench(a_machine(), tmp_path)
    assert "no GPU here" in step_checks.device_path(bench).summary
    losses = device_path.PageLosses.__call__
    spoilt = lambda self, batch: losses(self, batch).cpu()  # noqa: E731
    monkeypatch.setattr(device_path.PageLosses, "__call__", spoilt)
    with pytest.raises(Failed, match="left the device"):
        step_checks.device_path(bench)


def test_memory_is_predicted(tmp_path, monkeypatch):
    monkeypatch.setitem(step_checks.PAGES, "cpu", (2,))
    held = step_checks.peak_memory(Workbench(a_machine(), tmp_path))
    assert held.figures["difference"] < step_checks.MEMORY_TOLERANCE["cpu"]


def test_differences_of_trainings():
    line = {"images": 8, "ids_hash": "a", "loss": 2.0, "recon": 1.0, "kl": 1.0}
    assert largest_difference([line], [line | {"loss": 1.0}]) == 1.0
    with pytest.raises(Failed, match="different pages"):
        largest_difference([line], [line | {"ids_hash": "b"}])
    with pytest.raises(Failed, match="loss is nan at 8 images"):
        largest_difference([line | {"loss": float("nan")}], [line])
    assert require_at_most(1e-5, 1e-4, "losses") == "losses differ by 1.0e-05, tolerance 1e-04"
    with pytest.raises(Failed, match="losses differ by nan"):
        require_at_most(float("nan"), 1e-4, "losses")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "luck"], "--only: there is no 'luck'"),
        (["--engines", "warp"], "--engines: there is no 'warp'"),
        (["--gpus", "8"], "--gpus needs --dry-run"),
        (["--minutes", "0"], "must be a number above 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["doctor", *arguments])
    with pytest.raises((SystemExit, ValueError)) as raised:
        doctor.main()
    assert message in capsys.readouterr().err + str(raised.value)


def test_dry_run_shows_only_the_engines_asked_for(monkeypatch, capsys):
    arguments = ["--dry-run", "--gpus", "8", "--engines", "zero1"]
    monkeypatch.setattr(sys, "argv", ["doctor", *arguments])
    assert doctor.main() == 0
    out = capsys.readouterr().out
    assert "engine_zero1" in out
    assert "engine_zero2" not in out
    assert "resume" in out


@pytest.mark.slow
def test_whole_diagnosis_of_this_machine(tmp_path):
    file = tmp_path / "found.json"
    command = [sys.executable, "-m", "launch.doctor", "--minutes", "30", "--json", str(file)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    entries = json.loads(file.read_text())
    assert [entry["check"] for entry in entries] == list(CHECKS)
    assert {entry["status"] for entry in entries} <= {HELD, SKIPPED}
    assert "resume" in [entry["check"] for entry in entries if entry["status"] == HELD]
