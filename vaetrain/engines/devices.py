"""GPUs and CPU threads of this process, found without importing torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from shards.cores import count_cores
from vaetrain.engines.launching.launcher_command import (
    LauncherCommand,
    is_launched,
    launcher_command,
)
from vaetrain.engines.launching.rank_variables import read_ranks

NVIDIA_PROC = Path("/proc/driver/nvidia/gpus")  # one folder per GPU
DEVICE_FILES = Path("/dev")
SECONDS = 60.0  # for nvidia-smi, which starts every GPU if no other process has


def count_gpus(environment: Mapping[str, str]) -> int:
    """Return the number of GPUs that CUDA shows to a process with these environment variables.

    CUDA_VISIBLE_DEVICES is read as CUDA and torch read it: indices or UUIDs, up to the first one
    that is invalid, and none at all if one is repeated. Of MIG instances CUDA shows only one.
    """
    gpus, has_mig = installed_gpus()
    mask = environment.get("CUDA_VISIBLE_DEVICES")
    if mask is not None:
        visible: list[str] = []
        for word in mask.split(","):
            name = word.strip()
            if name in visible:
                return 0
            if not _is_valid(name, gpus):
                break
            visible.append(name)
        has_mig = has_mig or mask.startswith("MIG-")
        gpus = min(gpus, len(visible))
    return min(gpus, 1) if has_mig else gpus


def installed_gpus() -> tuple[int, bool]:
    """Return the number of NVIDIA GPUs of this machine, and whether one is split by MIG."""
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--list-gpus"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            done = None
        if done is not None and done.returncode == 0:
            lines = done.stdout.splitlines()
            gpus = sum(line.startswith("GPU ") for line in lines)
            return gpus, any(line.strip().startswith("MIG ") for line in lines)
    if NVIDIA_PROC.is_dir():
        return sum(1 for _ in NVIDIA_PROC.iterdir()), False
    return sum(bool(re.fullmatch(r"nvidia\d+", p.name)) for p in DEVICE_FILES.iterdir()), False


def _is_valid(name: str, gpus: int) -> bool:
    if name.isdecimal():
        return int(name) < gpus
    return name.startswith(("GPU-", "MIG-"))


def cpu_threads(environment: Mapping[str, str]) -> int:
    """Return the number of threads of a rank on a CPU.

    The user's OMP_NUM_THREADS, else an equal share of the cores of this machine's ranks.
    """
    chosen = user_threads(environment, launcher_command())
    if chosen is not None:
        return chosen
    return max(1, count_cores() // read_ranks(environment).local_world_size)


def thread_line(threads: int) -> str:
    """Return a line that states the number of threads of this process, and its source."""
    chosen = user_threads(os.environ, launcher_command())
    ranks = read_ranks(os.environ).local_world_size
    cores = f"{count_cores()} core{'s' * (count_cores() > 1)} of this machine may be used"
    reason = "as set by OMP_NUM_THREADS or the launcher" if chosen == threads else cores
    return f"threads: {threads}{' per rank' * (ranks > 1)}; {reason}"


def machine_threads() -> int:
    """Return the number of threads of a rank on a CPU while this machine's other ranks wait."""
    return user_threads(os.environ, launcher_command()) or count_cores()


def user_threads(environment: Mapping[str, str], launcher: LauncherCommand | None) -> int | None:
    """Return the number of threads that the user set; None: no number was set.

    accelerate launch and torchrun set OMP_NUM_THREADS=1 for every rank if it is not set.
    Under a launcher its own environment and options are read instead.
    """
    if launcher is None:
        text = environment.get("OMP_NUM_THREADS")
        if text == "1" and is_launched(environment):
            text = None
    else:
        text = launcher.option("num_cpu_threads_per_process")
        text = launcher.environment.get("OMP_NUM_THREADS") if text is None else text
    first = "" if text is None else text.partition(",")[0].strip()  # of nested levels
    return int(first) if first.isdecimal() and int(first) > 0 else None
