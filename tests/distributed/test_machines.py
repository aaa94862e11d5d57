"""One training on two machines: network namespaces with a cable between them, and a Slurm job."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from launch.soak import kill_family
from tests.distributed.conftest import ACCELERATE, REPO

ADDRESSES = ("10.213.7.1", "10.213.7.2")
CABLE = "cable"
CONFIGURATION = Path("/etc/netns")
LONG = ("train.max_images=100000", "train.checkpoint_every_images=24")


def ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True)


@pytest.fixture
def machines():
    """The names of two network namespaces that reach each other and nothing else."""
    names = [f"vaetrain-{os.getpid()}-{number}" for number in (0, 1)]
    try:
        for name in names:
            made = ip("netns", "add", name)
            if made.returncode:
                pytest.skip(f"network namespaces are not allowed here: {made.stderr.strip()}")
            # `ip netns exec` puts it in place of /etc/hosts. Who is not in it would be looked for
            # for minutes, without a network.
            hosts = CONFIGURATION / name / "hosts"
            hosts.parent.mkdir(parents=True)
            lines = ("127.0.0.1 localhost", *map(" ".join, zip(ADDRESSES, names, strict=True)))
            hosts.write_text("\n".join(lines) + "\n")
        cable = ("type", "veth", "peer", "name", CABLE, "netns", names[1])
        made = ip("link", "add", CABLE, "netns", names[0], *cable)
        if made.returncode:
            pytest.skip(f"there are no veth pairs here: {made.stderr.strip()}")
        for name, address in zip(names, ADDRESSES, strict=True):
            inside = ("-n", name)
            assert ip(*inside, "address", "add", f"{address}/24", "dev", CABLE).returncode == 0
            for device in (CABLE, "lo"):
                assert ip(*inside, "link", "set", device, "up").returncode == 0
        yield names
    finally:
        for name in names:
            ip("netns", "delete", name)
            shutil.rmtree(CONFIGURATION / name, ignore_errors=True)


def start(trainer, machines, name, *settings):
    """Start a run's two halves, a machine each."""
    path = f"{os.path.dirname(ACCELERATE)}:{os.environ['PATH']}"
    halves = []
    for rank, machine in enumerate(machines):
        share = ["--machines", "2", "--rank", str(rank), "--processes", "1"]
        share += ["--main-address", ADDRESSES[0], "--interface", CABLE]
        inside = ["ip", "netns", "exec", machine, str(REPO / "launch" / "multinode.sh")]
        command = [*inside, *share, *trainer.arguments(name, *settings)]
        halves.append(trainer.start(command, PATH=path))
    return halves


def end(processes):
    """Kill what is left of some runs."""
    for process in processes:
        kill_family(process.mark)
        process.communicate()


@pytest.mark.slow
def test_two_machines_train_one_run_and_survive_losing_one(trainer, machines):
    name = "two-machines"
    halves = start(trainer, machines, name, *LONG)
    try:
        deadline = time.monotonic() + 240
        checkpoints = trainer.folder / name / "checkpoints"
        while not list(checkpoints.glob("[0-9]*")):
            assert [half.poll() for half in halves] == [None, None], halves[0].communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        kill_family(halves[1].mark)
        out, err = halves[0].communicate(timeout=60)
        assert halves[0].returncode != 0
        assert "error: rank 1 is dead; last seen" in err
        assert "engine=ddp backend=gloo world_size=2" in out
    finally:
        end(halves)
    saved = int(max(path.name for path in checkpoints.glob("[0-9]*")))
    halves = start(trainer, machines, name, f"train.max_images={saved + 48}")
    try:
        out, err = halves[0].communicate(timeout=240)
        assert halves[0].returncode == 0, err
        assert halves[1].wait(timeout=60) == 0
        assert f"resuming at {saved} of {saved + 48} images" in out
    finally:
        end(halves)
    assert trainer.lines(name)[-1]["images"] == saved + 48


SRUN = """#!/usr/bin/env python3
# Two nodes on one machine. As slurmstepd does, it signals every process of its step.
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
    *) echo "$@" >> "$FAKE/told" ;;
esac
"""


@pytest.mark.slow
def test_a_slurm_job_saves_before_its_time_limit_and_queues_again(trainer, tmp_path):
    """Slurm's own commands are played here; that it signals all of a step is its documentation."""
    for command, text in (("srun", SRUN), ("scancel", SCANCEL), ("scontrol", SCONTROL)):
        (tmp_path / command).write_text(text)
        (tmp_path / command).chmod(0o755)
    slurm = {
        "SLURM_JOB_ID": "4711",
        "SLURM_NNODES": "2",
        "SLURM_JOB_NODELIST": "node[0-1]",
        "SLURM_SUBMIT_DIR": str(REPO),
        "FAKE": str(tmp_path),
        "PATH": f"{tmp_path}:{os.path.dirname(ACCELERATE)}:{os.environ['PATH']}",
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
    assert (tmp_path / "told").read_text() == "requeue 4711\n"
