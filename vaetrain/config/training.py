"""Settings of the training loop and of the collapse monitor."""

from __future__ import annotations

from dataclasses import dataclass

from vaetrain.engines.spec import PRECISIONS
from vaetrain.settings import AUTO, setting

MIN_PAGES = 20  # fewer samples are not compared with training pages


@dataclass
class TrainConfig:
    """Settings of the training loop."""

    seed: int = setting(
        0, "seed of the sample order, augmentation, noise and initial weights", minimum=0
    )
    epochs: float = setting(100.0, "number of epochs: passes over the training pages", above=0)
    max_images: int | None = setting(
        None, "stop after this many images, rounded up to a global batch", minimum=1
    )
    global_batch_size: int = setting(16, "pages per optimizer step, over all ranks", minimum=1)
    micro_batch_size: int | None = setting(
        None,
        "pages per rank and forward pass; null: the largest power of two that divides a rank's "
        "share of the global batch, at most 32",
        minimum=1,
    )
    precision: str | None = setting(
        None,
        "precision of the forward pass; weights and gradients are fp32; null: that of the engine "
        "file; auto: bf16 on GPUs that compute in it, else no",
        choices=(*PRECISIONS, AUTO),
    )
    channels_last: bool | str = setting(
        False,
        "store feature maps channels last, which is faster on GPUs; auto: on GPUs",
        choices=(True, False, AUTO),
    )
    checkpoint_activations: bool = setting(
        False, "recompute activations in the backward pass: less memory, more time"
    )
    compile: bool | str = setting(
        False,
        "compile the model's blocks with torch.compile; the first steps take minutes; auto: on "
        "GPUs with a working compiler",
        choices=(True, False, AUTO),
    )
    deterministic: bool = setting(
        True,
        "use deterministic algorithms on GPUs, so that a run can be repeated to the same bits; "
        "CPUs always do",
    )
    tf32: bool = setting(
        False,
        "round factors of fp32 matrix products and convolutions to 10 bits of mantissa on GPUs; "
        "faster, but engines then differ by more than rounding of fp32",
    )
    ema_half_life_images: float = setting(
        2000.0,
        "half-life of the exponential moving average of the weights, in images; 0: no average",
        minimum=0,
    )
    log_every_images: int = setting(512, "images between lines of the training log", minimum=1)
    validate_every_images: int = setting(8192, "images between validations", minimum=1)
    validation_samples: int = setting(
        64,
        "samples of the prior that every validation compares with as many training pages; 0: none",
        minimum=0,
    )
    checkpoint_every_images: int = setting(8192, "images between checkpoints", minimum=1)
    max_skipped_steps: int = setting(
        10,
        "stop the run, with a checkpoint, after this many consecutive steps that were skipped "
        "because a loss or gradient was not finite; checked when a line is logged",
        minimum=1,
    )
    keep_checkpoints: int = setting(3, "number of newest checkpoints to keep", minimum=1)
    on_failed_save: str = setting(
        "warn",
        "if a checkpoint cannot be written, for example because the disk is full: warn and "
        "continue to the next checkpoint, or stop; earlier checkpoints stay valid",
        choices=("warn", "stop"),
    )
    timeout_seconds: float = setting(
        600.0,
        "seconds that ranks wait for a dead or hung rank before they report it and exit; must be "
        "longer than any validation batch, figure or checkpoint takes",
        minimum=1,
    )


@dataclass
class CollapseConfig:
    """Settings of the collapse monitor."""

    action: str = setting(
        "warn",
        "response to posterior collapse: log a warning; lower a cap on beta until dimensions are "
        "active again, then raise it slowly; or stop the run",
        choices=("warn", "hold_beta", "stop"),
    )
    inactive_share: float = setting(
        0.5,
        "share of inactive dimensions from which on the posterior counts as collapsed; of the "
        "dimensions, at most the number of validation pages minus one is counted",
        minimum=0,
        maximum=1,
    )
