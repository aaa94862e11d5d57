"""Settings with the value `auto`, resolved from the device when a run starts.

These are `train.precision`, `train.channels_last` and `train.compile`. The default micro batch is
in `vaetrain/data/batching.py`, the policy `auto` in `vaetrain/augmentation/policy.py`.
"""

from __future__ import annotations

import dataclasses

import torch

from vaetrain.config.training import TrainConfig
from vaetrain.engines.device_options import automatic_precision, can_compile
from vaetrain.settings import AUTO


def resolve_auto(
    train: TrainConfig, device: torch.device, *, compiles: bool = True
) -> tuple[TrainConfig, dict[str, str | bool]]:
    """Replace `auto` by the values for a device.

    Args:
        compiles: whether the engine can run compiled blocks.

    Returns: the settings without `auto`, and the chosen values by dotted name.
    """
    values = {
        "precision": automatic_precision(device),
        "channels_last": device.type == "cuda",
        "compile": compiles and can_compile(device),
    }
    chosen = {name: value for name, value in values.items() if getattr(train, name) == AUTO}
    named = {f"train.{name}": value for name, value in chosen.items()}
    return dataclasses.replace(train, **chosen), named
