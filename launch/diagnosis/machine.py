"""Facts about this machine: GPUs, cores, memory, disks, and versions beside the tested ones."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

TESTED = {
    "torch": "2.14.1",
    "torchvision": "0.29.1",
    "accelerate": "1.15.0",
    "deepspeed": "0.19.8",
}
"""Versions that this project is tested with."""

GIB = 2**30
MACHINE_FILE = "machine.json"


@dataclass(frozen=True)
class Gpu:
    """One GPU: its name, its memory and its compute capability."""

    name: str
    gib: float
    capability: str


@dataclass(frozen=True)
class Machine:
    """Facts about a machine; None where one could not be found.

    Attributes:
        has_bf16: whether the GPUs compute in bf16 without emulation.
        driver, cuda, nccl: versions.
        cores, affinity: CPU cores of the machine, and those that this process may run on.
        cgroup_cores, cgroup_gib: limits of the control group.
        gib, shm_gib: memory, and the size of /dev/shm.
        omp_threads: the variable OMP_NUM_THREADS.
        threads: threads of torch in this process.
        disk_gib: free in the current folder.
        compiler: path of a C++ compiler.
        versions: installed versions of the packages in `TESTED`.
    """

    gpus: tuple[Gpu, ...] = ()
    has_bf16: bool = True
    driver: str | None = None
    cuda: str | None = None
    nccl: str | None = None
    cores: int = 1
    affinity: int = 1
    cgroup_cores: float | None = None
    gib: float = 0.0
    cgroup_gib: float | None = None
    shm_gib: float | None = None
    omp_threads: str | None = None
    threads: int = 1
    disk_gib: float = 0.0
    compiler: str | None = None
    versions: dict[str, str | None] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """The name of the device of checks in one process."""
        return "cuda:0" if self.gpus else "cpu"

    @property
    def ranks(self) -> int:
        """World size of trainings: a power of two of the GPUs, at most 8; without GPUs two."""
        return 1 << (min(len(self.gpus), 8).bit_length() - 1) if self.gpus else 2

    @property
    def where(self) -> str:
        """The ranks' devices, for a plan."""
        if not self.gpus:
            return f"{self.ranks} ranks on the CPU (gloo)"
        if self.ranks == 1:
            return "one GPU, world size 1"
        unused = f" of {len(self.gpus)}" if len(self.gpus) > self.ranks else ""
        return f"{self.ranks}{unused} GPUs (NCCL)"

    def write(self, path: Path) -> None:
        """Write the facts as JSON."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Machine:
        """Return the facts that `write` has written."""
        facts = json.loads(path.read_text())
        return cls(**facts | {"gpus": tuple(Gpu(**gpu) for gpu in facts["gpus"])})


def has_module(name: str) -> bool:
    """Return whether a package is installed."""
    return importlib.util.find_spec(name) is not None


def gather() -> Machine:
    """Return the facts about this machine."""
    # Imported here: the process of a check reads the facts from a file and may not need torch,
    # whose import takes seconds.
    import torch

    gpus = ()
    if torch.cuda.is_available():
        devices = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        gpus = tuple(
            Gpu(device.name, device.total_memory / GIB, f"{device.major}.{device.minor}")
            for device in devices
        )
    nccl = None
    if gpus and torch.distributed.is_nccl_available():
        nccl = ".".join(map(str, torch.cuda.nccl.version()))
    return Machine(
        gpus=gpus,
        has_bf16=not gpus or torch.cuda.is_bf16_supported(including_emulation=False),
        driver=_driver() if gpus else None,
        cuda=torch.version.cuda,
        nccl=nccl,
        cores=os.cpu_count() or 1,
        affinity=len(os.sched_getaffinity(0)),
        cgroup_cores=_cgroup_cores(),
        gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB,
        cgroup_gib=_cgroup_memory(),
        shm_gib=shutil.disk_usage("/dev/shm").total / GIB if Path("/dev/shm").is_dir() else None,
        omp_threads=os.environ.get("OMP_NUM_THREADS"),
        threads=torch.get_num_threads(),
        disk_gib=shutil.disk_usage(".").free / GIB,
        compiler=next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None),
        versions={name: _version(name) for name in TESTED},
    )


def describe(machine: Machine) -> Iterator[str]:
    """Yield the facts as lines."""
    for number, gpu in enumerate(machine.gpus):
        yield f"GPU {number}: {gpu.name}, {gpu.gib:.1f} GiB, compute capability {gpu.capability}"
    if machine.gpus:
        yield (
            f"driver {machine.driver or 'unknown'}, CUDA {machine.cuda}, "
            f"NCCL {machine.nccl or 'unknown'}"
        )
    else:
        yield f"GPU: none that torch can use; CUDA version of torch: {machine.cuda or 'none'}"
    limit = "no limit" if machine.cgroup_cores is None else f"{machine.cgroup_cores:g} cores"
    yield (
        f"CPU: {machine.affinity} of {machine.cores} cores by affinity, control group: {limit}; "
        f"OMP_NUM_THREADS={machine.omp_threads or '(not set)'}, torch threads {machine.threads}"
    )
    limit = "no limit" if machine.cgroup_gib is None else f"{machine.cgroup_gib:.1f} GiB"
    shm = "none" if machine.shm_gib is None else f"{machine.shm_gib:.1f} GiB"
    yield (
        f"memory: {machine.gib:.1f} GiB, control group: {limit}; /dev/shm: {shm}; "
        f"free disk here: {machine.disk_gib:.1f} GiB; C++ compiler: {machine.compiler or 'none'}"
    )
    tested = {
        name: version for name, version in machine.versions.items() if _is_tested(name, version)
    }
    if tested:
        yield f"as tested: {', '.join(f'{name} {version}' for name, version in tested.items())}"
    for name, version in machine.versions.items():
        if name not in tested:
            yield f"{name} {version or 'is not installed'}, but tested with {TESTED[name]}"


def _is_tested(name: str, version: str | None) -> bool:
    return version is not None and version.partition("+")[0] == TESTED[name]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.split("\n")[0].strip() or None


def _cgroup_file(*names: str) -> list[str]:
    """Return the words of the first of these files of the control group that exists."""
    for name in names:
        path = Path("/sys/fs/cgroup", name)
        if path.is_file():
            return path.read_text().split()
    return []


def _cgroup_cores() -> float | None:
    quota, period = (_cgroup_file("cpu.max") or ["max", "1"])[:2]
    return None if quota == "max" else int(quota) / int(period)


def _cgroup_memory() -> float | None:
    words = _cgroup_file("memory.max", "memory/memory.limit_in_bytes")
    # Version 1 writes a number near 2^63 where there is no limit.
    if not words or words[0] == "max" or int(words[0]) >= 2**60:
        return None
    return int(words[0]) / GIB
