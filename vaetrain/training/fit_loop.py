"""Loop of the fits that follow a training: those of the parts of the prior."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vaetrain.engines.base import Engine

WEIGHT_DECAY = 0.01
MARK_EVERY = 20  # steps between signs of life for the other ranks


def minimise(
    module: nn.Module,
    loss: Callable[[], Tensor],
    steps: int,
    engine: Engine,
    *,
    name: str,
    lr: float,
    warmup: int,
    clip_norm: float = math.inf,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Minimise a loss by AdamW on the main process; the other ranks are in `follow_main`.

    The learning rate rises linearly and falls as a cosine to 0.

    Args:
        loss: returns the scalar loss of the next batch.
        name: of the fit, in the signs of life.
        lr: peak of the learning rate.
        warmup: steps of its rise.
        clip_norm: largest norm of the gradient.
        after: is called after each step.
    """
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / warmup) * (1 + math.cos(math.pi * step / steps)) / 2,
    )
    for step in range(steps):
        if step % MARK_EVERY == 0:
            engine.tell_progress(f"fitting {name}, step {step} of {steps}")
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
        optimizer.step()
        schedule.step()
        after()
