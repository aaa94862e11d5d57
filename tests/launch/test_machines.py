"""Scripts that start a training on several machines: their commands, and refused arguments."""

import os
import subprocess

import pytest

from tests.support.paths import REPO

SCRIPTS = sorted(REPO.glob("launch/*.sh")) + sorted(REPO.glob("launch/*.sbatch"))


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return subprocess.run(
        command, cwd=REPO, env=clean | environment, capture_output=True, text=True, timeout=60
    )


def launched(rank: int, address: str, port: int, processes: int, arguments: str) -> str:
    """Return the command that one of two machines runs."""
    return (
        "accelerate launch --config_file accelerate_configs/ddp.yaml --num_machines 2 "
        f"--num_processes {processes} --machine_rank {rank} --main_process_ip {address} "
        f"--main_process_port {port} vaetrain/train.py {arguments}"
    )


def test_scripts_pass_shellcheck():
    done = run("shellcheck", *map(str, SCRIPTS))
    assert done.returncode == 0, done.stdout


def test_a_machine_launches_its_own_ranks():
    arguments = ("--machines", "2", "--rank", "1", "--main-address", "10.0.0.1", "--processes", "4")
    done = run("launch/multinode.sh", *arguments, "--dry-run", "--experiment", "base", "name=a b")
    expected = launched(1, "10.0.0.1", 29500, 8, "--experiment base name=a\\ b")
    assert done.stdout.strip() == expected


def test_environment_variables_replace_options():
    settings = {"MACHINES": "2", "MACHINE_RANK": "0", "MAIN_ADDRESS": "a", "MAIN_PORT": "7"}
    done = run("launch/multinode.sh", "--dry-run", **settings, PROCESSES="1", INTERFACE="ib0")
    start = "env GLOO_SOCKET_IFNAME=ib0 NCCL_SOCKET_IFNAME=ib0 "
    assert done.stdout.strip() == start + launched(0, "a", 7, 2, "").strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--machines: '' is not a whole number"),
        (
            ("--machines", "2", "--rank", "2"),
            "--rank: 2 of 2 machines; machines are numbered from 0",
        ),
        (("--machines", "2", "--rank", "0"), "--main-address: missing; give the address"),
        (("--machines", "2", "--rank"), "--rank: needs a value"),
        (
            ("--machines", "2", "--rank", "0", "--main-address", "a", "--engine", "warp"),
            "--engine: there is no accelerate_configs/warp.yaml",
        ),
    ],
)
def test_wrong_options_are_refused_in_one_line(arguments, message):
    done = run("launch/multinode.sh", *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {message}")


@pytest.mark.parametrize("switch", [{"DRY_RUN": "1"}, {}])
def test_a_dry_run_is_an_option_or_a_variable(tmp_path, switch):
    """The variable was ignored, and the training was launched."""
    launcher = tmp_path / "accelerate"
    launcher.write_text("#!/bin/sh\necho launched\n")
    launcher.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    arguments = ("--machines", "2", "--rank", "0", "--main-address", "a", "--processes", "1")
    option = () if switch else ("--dry-run",)
    done = run("launch/multinode.sh", *arguments, *option, **switch, PATH=path)
    assert done.stdout.strip() == launched(0, "a", 29500, 2, "").strip()
    done = run("launch/multinode.sh", *arguments, DRY_RUN="", PATH=path)
    assert done.stdout.strip() == "launched"
    # torch's launcher waits for the other machines without a word.
    waiting = "machine 0 of 2: waiting for the other machines at a:29500"
    assert done.stderr.strip() == waiting


def test_each_nodes_step_has_the_cores_of_its_task(tmp_path):
    """srun since Slurm 22.05 reads SRUN_CPUS_PER_TASK, not the --cpus-per-task of the job."""
    programs = {
        "srun": 'echo "srun with $SRUN_CPUS_PER_TASK"',
        "scontrol": "echo node0; echo node1",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "node[0-1]", "SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "32"}
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = run("launch/slurm.sbatch", **slurm, SLURM_JOB_ID="5", PATH=path)
    assert (done.returncode, done.stdout.strip()) == (0, "srun with 32"), done.stderr


def test_slurm_dry_run_prints_the_command_of_each_node():
    environment = {"DRY_RUN": "1", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4"}
    done = run("launch/slurm.sbatch", "--experiment", "base", **environment, SLURM_JOB_ID="123")
    assert done.returncode == 0, done.stderr
    assert [line.strip() for line in done.stdout.splitlines()] == [
        f"node{rank}: " + launched(rank, "node0", 20123, 8, "--experiment base") for rank in (0, 1)
    ]
