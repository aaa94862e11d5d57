"""Options that depend on the device, with a GPU that is only pretended.

`test_cuda_has_the_chosen_arithmetic` needs no GPU: torch's switches exist without one.
"""

import os
import subprocess
import sys

import pytest
import torch

from vaetrain.engines import device_options
from vaetrain.engines.device_options import automatic_precision, can_compile, set_arithmetic
from vaetrain.startup import set_environment

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch):
    """Return a function that pretends a GPU of a compute capability, with Triton and a compiler."""

    def pretend(capability: tuple[int, int], *, triton: bool = True, compiler: bool = True) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr("torch.utils._triton.has_triton", lambda: triton)
        found = "/usr/bin/cc" if compiler else None
        monkeypatch.setattr(device_options.shutil, "which", lambda name: found)

    return pretend


@pytest.mark.parametrize(
    ("capability", "precision", "compiles"),
    [((6, 1), "no", False), ((7, 5), "no", True), ((8, 0), "bf16", True), ((9, 0), "bf16", True)],
)
def test_automatic_values_follow_the_compute_capability(gpu, capability, precision, compiles):
    gpu(capability)
    assert (automatic_precision(CUDA), can_compile(CUDA)) == (precision, compiles)


@pytest.mark.parametrize("missing", ["triton", "compiler"])
def test_a_gpu_without_triton_or_a_compiler_does_not_compile(gpu, missing):
    gpu((9, 0), **{missing: False})
    assert not can_compile(CUDA)


def test_all_automatic_values_are_off_on_a_cpu():
    assert (automatic_precision(CPU), can_compile(CPU)) == ("no", False)


def switches() -> tuple[bool, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
    )


@pytest.fixture
def restored():
    """Restore torch's switches after a test."""
    enabled, _, deterministic, benchmark, matmul, convolution = switches()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(enabled)
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark
    torch.backends.cuda.matmul.allow_tf32 = matmul
    torch.backends.cudnn.allow_tf32 = convolution


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("tf32", [True, False])
def test_cuda_has_the_chosen_arithmetic(restored, deterministic, tf32):
    set_arithmetic(CUDA, deterministic=deterministic, tf32=tf32)
    assert switches() == (deterministic, False, deterministic, False, tf32, tf32)
    assert not torch.utils.deterministic.fill_uninitialized_memory


def test_a_cpu_keeps_its_arithmetic(restored):
    before = switches()
    set_arithmetic(CPU, deterministic=True, tf32=True)
    assert switches() == before


def test_the_workspace_of_cublas_is_set_unless_the_user_has_set_it():
    environment: dict[str, str] = {}
    set_environment(environment, deterministic=False)
    assert environment == {}
    set_environment(environment, deterministic=True)
    assert environment == {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    environment["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
    set_environment(environment, deterministic=True)
    assert environment == {"CUBLAS_WORKSPACE_CONFIG": ":16:8"}


def test_the_start_sets_the_workspace_before_torch_is_imported():
    program = (
        "import os, sys; from vaetrain.startup import start; start([]); "
        "print('torch' in sys.modules, os.environ['CUBLAS_WORKSPACE_CONFIG'])"
    )
    own = {k: v for k, v in os.environ.items() if k != "CUBLAS_WORKSPACE_CONFIG"}
    done = subprocess.run([sys.executable, "-c", program], env=own, capture_output=True, text=True)
    assert done.stdout.split() == ["False", ":4096:8"], done.stderr
