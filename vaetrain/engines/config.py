"""Settings of the optimizer, and of the reduction of gradients over the ranks."""

from __future__ import annotations

from dataclasses import dataclass

from vaetrain.settings import AUTO, setting

# Those that resume identically from a saved state. adan, adopt and lamb keep a step count outside
# the state of the parameters, which is not saved.
TIMM_OPTIMIZERS = ("sgd", "nadamw", "adabelief", "adafactor", "lion", "mars", "radam")


@dataclass
class OptimizerConfig:
    """Settings of the optimizer."""

    name: str = setting(
        "adamw",
        "optimizer; all but adamw are timm's and need the engine single or ddp",
        choices=("adamw", *TIMM_OPTIMIZERS),
    )
    lr: float = setting(1e-3, "maximum learning rate", above=0)
    weight_decay: float = setting(
        0.01, "decoupled weight decay; norms and biases do not decay", minimum=0
    )
    beta1: float = setting(0.9, "AdamW: decay of the first moment", minimum=0, maximum=0.9999)
    beta2: float = setting(0.99, "AdamW: decay of the second moment", minimum=0, maximum=0.999999)
    eps: float = setting(1e-8, "AdamW: added to the denominator of the update", above=0)
    clip_norm: float = setting(
        1.0, "maximum global norm of the gradients; 0: no clipping", minimum=0
    )


@dataclass
class EngineConfig:
    """Settings of the reduction of gradients over the ranks."""

    reduce_dtype: str = setting(
        "fp32",
        "type in which the model's gradients are summed over the ranks; bf16 sends half the bytes "
        "and rounds; gradients, moments and weights stay fp32; not for single",
        choices=("fp32", "bf16"),
    )
    reduce_each_micro_batch: bool | str = setting(
        AUTO,
        "FSDP2: reduce the gradients in every micro batch, so that a rank keeps only its slices; "
        "false: once a step, which sends less but keeps whole gradients between micro batches; "
        "auto: once a step, but in every micro batch in bf16 and under fsdp2_offload. ddp and "
        "zero1 always reduce once a step, zero2 and zero3 in every micro batch",
        choices=(True, False, AUTO),
    )

    def reduces_each(self, *, offload: bool) -> bool:
        """Return whether FSDP2, with or without offload, reduces in every micro batch of a step."""
        if self.reduce_each_micro_batch != AUTO:
            return bool(self.reduce_each_micro_batch)
        # Gradients that are not reduced yet are added up in `reduce_dtype`, slices in fp32. They
        # are whole and on the device, also under offload, which saves the device's memory.
        return offload or self.reduce_dtype == "bf16"
