"""Settings of the optimizer."""

from __future__ import annotations

from dataclasses import dataclass

from vaetrain.settings import setting

# Those that go on alike from a saved state: adan, adopt and lamb count steps elsewhere.
TIMM_OPTIMIZERS = ("sgd", "nadamw", "adabelief", "adafactor", "lion", "mars", "radam")


@dataclass
class OptimizerConfig:
    name: str = setting(
        "adamw",
        "adamw, or on the engines single and ddp one of timm's",
        choices=("adamw", *TIMM_OPTIMIZERS),
    )
    lr: float = setting(1e-3, "highest learning rate", above=0)
    weight_decay: float = setting(0.01, "decoupled decay; none on norms and biases", minimum=0)
    beta1: float = setting(0.9, "AdamW: decay of the first moment", minimum=0, maximum=0.9999)
    beta2: float = setting(0.99, "AdamW: decay of the second moment", minimum=0, maximum=0.999999)
    eps: float = setting(1e-8, "AdamW: term that keeps the step finite", above=0)
    clip_norm: float = setting(1.0, "global norm gradients are clipped to; 0: off", minimum=0)
