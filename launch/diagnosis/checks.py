"""All checks, in the order in which they run."""

from __future__ import annotations

from launch.diagnosis import training_checks
from launch.diagnosis.registry import find

ORDER = (
    "device_path",
    "precision_fp32",
    "precision_bf16",
    "precision_fp16",
    *(f"engine_{name}" for name in training_checks.ENGINES),
    "offload",
    "resume",
    "micro_batch",
    "vaegan_r1",
    "compile",
    "memory",
    "throughput",
    "export",
    "cuda_tests",
)
CHECKS = {name: find(name) for name in ORDER}
