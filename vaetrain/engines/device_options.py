"""Options that depend on the device: their automatic values, and the arithmetic of CUDA."""

from __future__ import annotations

import os
import shutil

import torch

BF16_CAPABILITY = (8, 0)  # compute capability of the first GPUs that multiply in bf16
TRITON_CAPABILITY = (7, 0)  # of the oldest GPUs that Triton supports


def automatic_precision(device: torch.device) -> str:
    """Return `bf16` for a GPU that computes in it, else `no`."""
    return "bf16" if _capability(device) >= BF16_CAPABILITY else "no"


def can_compile(device: torch.device) -> bool:
    """Return whether `torch.compile` works on a GPU: it needs Triton and a C compiler."""
    if _capability(device) < TRITON_CAPABILITY:
        return False
    from torch.utils._triton import has_triton

    compilers = (os.environ.get("CC", "cc"), "gcc", "clang")
    return has_triton() and any(shutil.which(compiler) for compiler in compilers)


def _capability(device: torch.device) -> tuple[int, int]:
    """Return a GPU's compute capability; (0, 0) for other devices."""
    is_gpu = device.type == "cuda" and torch.cuda.is_available()
    return torch.cuda.get_device_capability(device) if is_gpu else (0, 0)


def set_arithmetic(device: torch.device, *, deterministic: bool, tf32: bool) -> None:
    """Choose the algorithms and the precision of fp32 products of CUDA; CPUs need no setting.

    `startup.set_environment` sets what must be set before torch is imported.

    Args:
        deterministic: refuse operations whose result differs from run to run, and let cuDNN choose
            its algorithms without timing them.
        tf32: round factors of fp32 products to 10 bits of mantissa.
    """
    if device.type != "cuda":
        return
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = False
    # Otherwise every new tensor is filled with nan first, which is one more kernel each.
    torch.utils.deterministic.fill_uninitialized_memory = False
