"""One training on two machines: two network namespaces with a veth pair, and a Slurm job."""

import contextlib
import os
import signal
import time

import pytest

from benchmarks.support.machines.namespaces import (
    NoNamespaces,
    connect,
    launch_command,
    launch_path,
    two_machines,
)
from launch.processes import kill_family
from tests.support.paths import REPO

LONG = ("train.max_images=100000", "train.checkpoint_every_images=24")


@pytest.fixture
def machines():
    """Yield the names of two network namespaces that are connected to each other only."""
    with contextlib.ExitStack() as stack:
        try:
            names = stack.enter_context(two_machines())
            connect(names)
        except NoNamespaces as error:
            pytest.skip(str(error))
        yield names


def start(trainer, machines, name, *settings):
    """Start a run with one rank on each machine; return both launchers."""
    arguments = trainer.arguments(name, *settings)
    commands = [launch_command(machines, number, "ddp", 1, arguments) for number in (0, 1)]
    return [trainer.start(command, PATH=launch_path()) for command in commands]


def end(processes):
    """Kill all processes of some runs."""
    for process in processes:
        kill_family(process.mark)
        process.communicate()


@pytest.mark.slow
def test_a_run_on_two_machines_resumes_after_one_machine_dies(trainer, machines):
    name = "two-machines"
    launchers = start(trainer, machines, name, *LONG)
    try:
        deadline = time.monotonic() + 240
        checkpoints = trainer.folder / name / "checkpoints"
        while not list(checkpoints.glob("[0-9]*")):
            running = [launcher.poll() is None for launcher in launchers]
            assert running == [True, True], launchers[0].communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        kill_family(launchers[1].mark)
        out, err = launchers[0].communicate(timeout=60)
        assert launchers[0].returncode != 0
        assert "error: rank 1 is dead; last seen" in err
        assert "engine=ddp backend=gloo world_size=2" in out
    finally:
        end(launchers)
    saved = int(max(path.name for path in checkpoints.glob("[0-9]*")))
    launchers = start(trainer, machines, name, f"train.max_images={saved + 48}")
    try:
        out, err = launchers[0].communicate(timeout=240)
        assert launchers[0].returncode == 0, err
        assert launchers[1].wait(timeout=60) == 0
        assert f"resuming at {saved} of {saved + 48} images" in out
    finally:
        end(launchers)
    assert trainer.lines(name)[-1]["images"] == saved + 48


SRUN = """#!/usr/bin/env python3
# Runs two nodes on one machine, and signals all processes of its step, as slurmstepd does.
import os, pathlib, signal, subprocess, sys

def descendants(parent):
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            child = int(stat.parent.name)
            yield child
            yield from descendants(child)

def signal_all(number, frame):
    for process in list(descendants(os.getpid())):
        os.kill(process, number)

signal.signal(signal.SIGUSR1, signal_all)
pathlib.Path(os.environ["FAKE"], "step").write_text(str(os.getpid()))
command = sys.argv[sys.argv.index("bash"):]
nodes = [subprocess.Popen(command, env=os.environ | {"SLURM_NODEID": str(n)}) for n in (0, 1)]
sys.exit(max(abs(node.wait()) for node in nodes))
"""
SCANCEL = """#!/usr/bin/env bash
[ "$*" = "--signal=USR1 4711" ] && kill -USR1 "$(cat "$FAKE/step")"
"""
SCONTROL = """#!/usr/bin/env bash
case $1 in
    show) echo 127.0.0.1 && echo 127.0.0.1 ;;
    *) echo "$@" >> "$FAKE/requeued" ;;
esac
"""


@pytest.mark.slow
def test_a_slurm_job_saves_before_its_time_limit_and_is_requeued(trainer, tmp_path):
    """Slurm's commands are replaced. By its documentation, all processes get the signal."""
    for command, text in (("srun", SRUN), ("scancel", SCANCEL), ("scontrol", SCONTROL)):
        (tmp_path / command).write_text(text)
        (tmp_path / command).chmod(0o755)
    slurm = {
        "SLURM_JOB_ID": "4711",
        "SLURM_NNODES": "2",
        "SLURM_JOB_NODELIST": "node[0-1]",
        "SLURM_SUBMIT_DIR": str(REPO),
        "FAKE": str(tmp_path),
        "PATH": f"{tmp_path}:{launch_path()}",
    }
    name = "slurm"
    job = trainer.start(["launch/slurm.sbatch", *trainer.arguments(name, *LONG)], **slurm)
    try:
        trainer.wait_for(name, job)
        os.kill(job.pid, signal.SIGUSR1)
        out, err = job.communicate(timeout=120)
    finally:
        end([job])
    assert job.returncode == 0, err
    assert "stop requested: checkpoint saved at" in out
    assert (tmp_path / "requeued").read_text() == "requeue 4711\n"
