"""The optimizer: AdamW that leaves norms and biases undecayed."""

from __future__ import annotations

import torch
from torch import nn

from vaetrain.config import OptimizerConfig


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) with weight decay on matrices and kernels only."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    undecayed = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": undecayed, "weight_decay": 0.0},
        ],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )
