"""GPUs and threads of a process, read from the environment and from fake device files."""

import pytest

from vaetrain.engines import devices
from vaetrain.engines.devices import count_gpus, cpu_threads, installed_gpus, user_threads
from vaetrain.engines.launching.launcher_command import LauncherCommand


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (None, 4),
        ("", 0),
        ("-1", 0),
        ("0", 1),
        ("0,1", 2),
        ("3, 1", 2),
        ("0,4,1", 1),  # GPU 4 is missing: CUDA ignores it and what follows
        ("0,-1,1", 1),
        ("0,0", 0),
        ("none", 0),
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", 1),
        ("GPU-8932f937,GPU-1d2c3b4a", 2),
        ("MIG-5c89852c-d268-c3f3-1b07-005d5ae1dc3f", 1),
        ("MIG-5c89852c,MIG-aa0d3e4f", 1),
    ],
)
def test_the_mask_selects_gpus(monkeypatch, mask, expected):
    monkeypatch.setattr(devices, "installed_gpus", lambda: (4, False))
    environment = {} if mask is None else {"CUDA_VISIBLE_DEVICES": mask}
    assert count_gpus(environment) == expected


def test_a_mask_shows_no_gpu_that_the_machine_lacks(monkeypatch):
    monkeypatch.setattr(devices, "installed_gpus", lambda: (0, False))
    for mask in ("0,1", "GPU-8932f937", "MIG-5c89852c"):
        assert count_gpus({"CUDA_VISIBLE_DEVICES": mask}) == 0
    monkeypatch.setattr(devices, "installed_gpus", lambda: (2, True))
    assert count_gpus({}) == 1


LISTING = """GPU 0: NVIDIA A100 (UUID: GPU-aaaa)
  MIG 1g.10gb     Device  0: (UUID: MIG-bbbb)
  MIG 1g.10gb     Device  1: (UUID: MIG-cccc)
GPU 1: NVIDIA A100 (UUID: GPU-dddd)
"""


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (f"cat <<END\n{LISTING}END\n", (2, True)),
        ("echo 'GPU 0: NVIDIA H100 (UUID: GPU-aaaa)'", (1, False)),
        ("echo 'No devices were found'", (0, False)),
        ("exit 9", (3, False)),  # no driver: the folders are counted
    ],
)
def test_nvidia_smi_lists_the_gpus(tmp_path, monkeypatch, script, expected):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for bus in ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0"):
        (tmp_path / "proc" / bus).mkdir(parents=True)
    monkeypatch.setattr(devices, "NVIDIA_PROC", tmp_path / "proc")
    assert installed_gpus() == expected


def test_device_files_are_counted_without_nvidia_smi_and_proc(tmp_path, monkeypatch):
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    monkeypatch.setattr(devices, "NVIDIA_PROC", tmp_path / "nothing")
    monkeypatch.setattr(devices, "DEVICE_FILES", tmp_path)
    for name in ("nvidia0", "nvidia11", "nvidiactl", "nvidia-uvm", "nvidia-caps"):
        (tmp_path / name).touch()
    assert installed_gpus() == (2, False)


def launcher(*options: str, **environment: str) -> LauncherCommand:
    return LauncherCommand(["python", "accelerate", "launch", *options], ["train.py"], environment)


@pytest.mark.parametrize(
    ("environment", "command", "expected"),
    [
        ({}, None, None),
        ({"OMP_NUM_THREADS": "1"}, None, 1),  # plain python: the user's
        ({"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}, None, None),
        ({"OMP_NUM_THREADS": "3", "TORCHELASTIC_RUN_ID": "x"}, None, 3),
        ({"OMP_NUM_THREADS": "1"}, launcher(), None),  # set by the launcher
        ({"OMP_NUM_THREADS": "1"}, launcher(OMP_NUM_THREADS="1"), 1),
        ({"OMP_NUM_THREADS": "6"}, launcher("--num_cpu_threads_per_process", "6"), 6),
        ({"OMP_NUM_THREADS": "6"}, launcher("--num-cpu-threads-per-process=6"), 6),
        ({"OMP_NUM_THREADS": "many"}, None, None),
    ],
)
def test_threads_of_the_user_and_of_the_launcher_are_told_apart(environment, command, expected):
    assert user_threads(environment, command) == expected


def test_ranks_share_the_cores_unless_the_user_chose(monkeypatch):
    monkeypatch.setattr(devices, "count_cores", lambda: 7)
    assert cpu_threads({}) == 7
    ranks = {"RANK": "0", "WORLD_SIZE": "9", "LOCAL_RANK": "0"}
    ranks |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    assert cpu_threads(ranks | {"LOCAL_WORLD_SIZE": "2"}) == 3
    assert cpu_threads(ranks | {"LOCAL_WORLD_SIZE": "9"}) == 1
    assert cpu_threads(ranks | {"OMP_NUM_THREADS": "2", "LOCAL_WORLD_SIZE": "2"}) == 2
