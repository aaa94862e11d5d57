"""Plan of a checkpoint: the bytes that each of many ranks writes, by the engines' own bounds.

The model has shapes but no data. Of an engine, only what defines its slices is made: numbers of
ranks, and, of ZeRO and FSDP2, the sizes that DeepSpeed and torch would cut the parameters into.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import accumulate
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from vaetrain.artifacts.tensor_files import Entry, encode_layouts
from vaetrain.engines.base import Engine
from vaetrain.engines.fsdp import FsdpEngine
from vaetrain.engines.replicated import ReplicatedEngine
from vaetrain.engines.spec import ENGINES
from vaetrain.engines.zero import ZeroEngine
from vaetrain.model.config import ModelConfig
from vaetrain.model.registry import SIZES, Size
from vaetrain.model.vae import VAE

KINDS = 4  # weights, EMA and two moments
FP32 = 4  # bytes
BILLION = Size((416, 832, 1664, 3328), blocks=3, grid=32)  # 10^9 parameters
SIDES = (128, 512)  # width and rows of the model's pages


@dataclass(frozen=True)
class Share:
    """Shares of the ranks in a checkpoint.

    Attributes:
        bytes: int64 (world size,), weights, EMA and moments that a rank writes.
        layout: bytes of `layout.json`.
    """

    bytes: np.ndarray
    layout: int


def large_model(size: Size) -> nn.Module:
    """Return a model on the device `meta`."""
    with patch.dict(SIZES, {"planned": size}), torch.device("meta"):
        return VAE(ModelConfig(size="planned", start="random"), *SIDES)


def engines(model: nn.Module, world_size: int, per_node: int) -> dict[str, Engine]:
    """Return the engines by name, each as rank 0 of a world."""
    return {
        "ddp": _replicated(model, world_size),
        "zero2": _zero2(model, world_size),
        "zero3": _zero3(model, world_size),
        "fsdp2": _fsdp(model, world_size, world_size),
        f"fsdp2, split over {per_node} ranks": _fsdp(model, world_size, per_node),
    }


def shares(engine: Engine) -> Share:
    """Return the shares of all ranks; raises ValueError unless they make up every tensor once."""
    entries = {name: Entry(*entry) for name, entry in engine.part_bounds().items()}
    for entry in entries.values():
        entry.check(engine.world_size)
    elements = sum(np.diff(entry.bounds) for entry in entries.values())
    moments = {f"{kind}.{name}": e for kind in engine.moments for name, e in entries.items()}
    layouts = {"weights": entries, "average": entries, "optimizer": moments, "adversary": {}}
    return Share(elements * KINDS * FP32, len(json.dumps(encode_layouts(layouts))))


def _started(kind: type[Engine], name: str, model: nn.Module, world_size: int) -> Engine:
    engine = kind.__new__(kind)
    engine.rank, engine.world_size, engine.module = 0, world_size, model
    engine.spec = ENGINES[name]
    return engine


def _replicated(model: nn.Module, world_size: int) -> Engine:
    engine = _started(ReplicatedEngine, "ddp", model, world_size)
    engine.adamw = torch.optim.AdamW(model.parameters())
    return engine


def _fsdp(model: nn.Module, world_size: int, count: int) -> Engine:
    engine = _started(FsdpEngine, "fsdp2", model, world_size)
    engine.mesh = SimpleNamespace(size=lambda dimension: count, get_group=lambda dimension: None)
    return engine


def _zero2(model: nn.Module, world_size: int) -> Engine:
    engine = _started(ZeroEngine, "zero2", model, world_size)
    parameters = list(model.parameters())
    ends = list(accumulate(p.numel() for p in parameters))
    # DeepSpeed pads the flat group so that a rank's part has an even number of elements.
    padded = -(-ends[-1] // (2 * world_size)) * 2 * world_size
    engine.optimizer = SimpleNamespace(
        round_robin_bit16_groups=[parameters],
        round_robin_bit16_offsets=[[0, *ends[:-1]]],
        bit16_groups_flat=[SimpleNamespace(numel=lambda: padded)],
    )
    return engine


def _zero3(model: nn.Module, world_size: int) -> Engine:
    engine = _started(ZeroEngine, "zero3", model, world_size)
    for parameter in model.parameters():
        parameter.ds_shape = parameter.shape
        parameter.ds_tensor = SimpleNamespace(ds_numel=-(-parameter.numel() // world_size))
    return engine
