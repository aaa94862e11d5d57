"""Settings of the training loop."""

from __future__ import annotations

from dataclasses import dataclass

from vaetrain.engines.spec import PRECISIONS
from vaetrain.settings import setting


@dataclass
class TrainConfig:
    seed: int = setting(0, "seed of order, augmentation, noise and initial weights", minimum=0)
    epochs: float = setting(100.0, "passes over the training pages", above=0)
    max_images: int | None = setting(
        None, "stop after so many images, rounded up to a global batch", minimum=1
    )
    global_batch_size: int = setting(16, "pages per optimizer step, over all ranks", minimum=1)
    micro_batch_size: int | None = setting(
        None, "pages a rank feeds the model at once; null: the largest power of two", minimum=1
    )
    precision: str | None = setting(
        None,
        "arithmetic of the forward pass; null: what the engine file says",
        choices=PRECISIONS,
    )
    channels_last: bool = setting(False, "lay feature maps out channels last: faster on GPUs")
    checkpoint_activations: bool = setting(
        False, "compute activations again in the backward pass instead of keeping them"
    )
    compile: bool = setting(False, "compile the model; its first steps take minutes")
    ema_half_life_images: float = setting(
        2000.0,
        "images after which a weight's share in the average has halved; 0: no average",
        minimum=0,
    )
    log_every_images: int = setting(512, "images between logged points", minimum=1)
    validate_every_images: int = setting(8192, "images between validations", minimum=1)
    checkpoint_every_images: int = setting(8192, "images between checkpoints", minimum=1)
    max_skipped_steps: int = setting(
        10,
        "steps in a row left out, because a loss or gradient was not finite, after which the run "
        "stops at its next logged line, with a checkpoint",
        minimum=1,
    )
    keep_checkpoints: int = setting(3, "newest checkpoints kept", minimum=1)
    on_failed_save: str = setting(
        "warn",
        "where a checkpoint cannot be written, as on a full disk: go on with a warning and try "
        "again at the next, or stop; the one before it stays whole",
        choices=("warn", "stop"),
    )
    timeout_seconds: float = setting(
        600.0,
        "how long ranks wait for one that died, hangs or does not get on, before they name it "
        "and end; longer than any validation batch, picture or checkpoint takes",
        minimum=1,
    )


@dataclass
class CollapseConfig:
    action: str = setting(
        "warn",
        "what a collapsing posterior leads to: a warning; a cap on beta that falls until "
        "dimensions revive and then rises carefully; or the end of the run",
        choices=("warn", "hold_beta", "stop"),
    )
    inactive_share: float = setting(
        0.5,
        "share of inactive dimensions from which on it collapses; at most as many count as there "
        "are validation pages, less one",
        minimum=0,
        maximum=1,
    )
