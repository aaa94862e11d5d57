"""One training on two machines: two network namespaces with a veth pair, and a Slurm job."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from launch.processes import kill_family
from tests.support.commands import ACCELERATE
from tests.support.paths import REPO

ADDRESSES = ("10.213.7.1", "10.213.7.2")
CABLE = "cable"
CONFIGURATION = Path("/etc/netns")
LONG = ("train.max_images=100000", "train.checkpoint_every_images=24")


def ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True)


@pytest.fixture
def machines():
    """Yield the names of two network namespaces that are connected to each other only."""
    names = [f"vaetrain-{os.getpid()}-{number}" for number in (0, 1)]
    try:
        for name in names:
            made = ip("netns", "add", name)
            if made.returncode:
                pytest.skip(f"network namespaces are not allowed here: {made.stderr.strip()}")
            # `ip netns exec` mounts it as /etc/hosts. Without a network, looking up a name that is
            # missing there takes minutes.
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
    """Start a run with one rank on each machine; return both launchers."""
    path = f"{os.path.dirname(ACCELERATE)}:{os.environ['PATH']}"
    launchers = []
    for rank, machine in enumerate(machines):
        share = ["--machines", "2", "--rank", str(rank), "--processes", "1"]
        share += ["--main-address", ADDRESSES[0], "--interface", CABLE]
        inside = ["ip", "netns", "exec", machine, str(REPO / "launch" / "multinode.sh")]
        command = [*inside, *share, *trainer.arguments(name, *settings)]
        launchers.append(trainer.start(command, PATH=path))
    return launchers


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
    assert (tmp_path / "requeued").read_text() == "requeue 4711\n"
