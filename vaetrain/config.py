"""Every setting of an experiment: its type, its default, what is allowed and what it means.

An experiment is a YAML file in `launch/experiments/` with these sections; `key=value` on the
command line overrides any of them by its dotted name.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from vaetrain.settings import checked, describe, merge, parse_override, read_yaml, setting

SAMPLE_SHARDS = Path("data") / "sample"


@dataclass
class DataConfig:
    shards: str | None = setting(
        None, "folder of built shards; null: the built-in sample, built into data/sample if absent"
    )
    width: int = setting(128, "image width in pixels", minimum=16, maximum=8192)
    max_height: int = setting(
        512,
        "rows kept of a page, in pixels after scaling to the width; taller pages are cut "
        "(training: a window drawn with the sample's randomness, evaluation: the top)",
        minimum=16,
        maximum=32767,
    )
    val_templates: list[str] = setting(
        [],
        "templates that make the validation set and are never trained on; "
        "where the shards hold none of them, the shards' own split is used",
    )
    window_shards: int = setting(8, "shards whose samples are shuffled together", minimum=1)
    workers: int = setting(1, "reader processes per rank; 0 reads in the trainer itself", minimum=0)
    prefetch: int = setting(4, "micro batches each reader process keeps ready", minimum=1)

    @property
    def folder(self) -> Path:
        """The folder of the shards; the built-in sample's unless they name another."""
        return SAMPLE_SHARDS if self.shards is None else Path(self.shards)


@dataclass
class ModelConfig:
    size: str = setting("tiny", "width and depth", choices=("tiny", "small", "base"))
    blocks: str = setting("resnet", "encoder and decoder blocks", choices=("resnet",))
    attention: str = setting("cbam", "attention in every block", choices=("none", "cbam"))
    skips: str = setting("none", "encoder-to-decoder skips", choices=("none",))
    latent: str = setting("vector", "shape of the latent", choices=("vector",))
    latent_dim: int = setting(128, "dimensions of the latent", minimum=1)
    start: str = setting(
        "components",
        "the linear path from page to latent and back: the training pages' principal components, "
        "or random weights",
        choices=("components", "random"),
    )
    pyramid: list[int] = setting([1, 2, 4], "bins per side of each pyramid-pooling level")


@dataclass
class AugmentConfig:
    policy: str = setting(
        "none",
        "none, default, strong, randaugment, trivialaugment, the path of a policy file, or auto: "
        "the policy that vaetrain.augment.search left in the folder of the shards",
    )
    ops: int = setting(2, "operations per page of randaugment", minimum=1)
    level: float = setting(0.5, "strength of randaugment", minimum=0, maximum=1)
    denoise: bool = setting(
        True, "let the policy's noise, salt and pepper and erasing spoil the model's input"
    )
    mixup_alpha: float = setting(
        0.0, "alpha of latent mixup's Beta(alpha, alpha); 0: no mixup", minimum=0
    )


@dataclass
class LossConfig:
    pixel: str = setting("l1", "reconstruction loss, mean over pixels", choices=("l1", "mse"))
    recon: float = setting(1.0, "weight of the reconstruction loss", minimum=0)
    ssim: float = setting(0.1, "weight of 1 - SSIM, mean over a page's windows", minimum=0)


@dataclass
class BetaConfig:
    schedule: str = setting("linear", "how beta rises", choices=("constant", "linear"))
    max: float = setting(1.0, "beta after warm-up", minimum=0)
    warmup_epochs: float = setting(10.0, "epochs from beta 0 to beta.max", minimum=0)
    reduction: str = setting(
        "pixel",
        "what beta multiplies, for each page: its KL in nats over the latent's dimensions, as "
        "their sum, their mean, or the sum divided by the page's pixels (beta 1 is then the "
        "bound itself, per pixel)",
        choices=("sum", "mean", "pixel"),
    )


@dataclass
class OptimizerConfig:
    lr: float = setting(1e-3, "highest learning rate of AdamW", above=0)
    weight_decay: float = setting(0.01, "decoupled decay; none on norms and biases", minimum=0)
    beta1: float = setting(0.9, "decay of the first moment", minimum=0, maximum=0.9999)
    beta2: float = setting(0.99, "decay of the second moment", minimum=0, maximum=0.999999)
    eps: float = setting(1e-8, "term that keeps the step finite", above=0)
    clip_norm: float = setting(1.0, "global norm gradients are clipped to; 0: off", minimum=0)


@dataclass
class LrConfig:
    schedule: str = setting("cosine", "shape after warm-up", choices=("constant", "cosine"))
    warmup_epochs: float = setting(1.0, "epochs of linear warm-up from 0", minimum=0)
    cycle_epochs: float | None = setting(
        None, "epochs of the first cosine cycle; null: one cycle to the end of training", above=0
    )
    cycle_factor: float = setting(1.0, "each cycle is so many times the last", minimum=1)
    floor: float = setting(1e-6, "lowest learning rate of a cycle", minimum=0)


@dataclass
class GanConfig:
    enabled: bool = setting(False, "train against a discriminator: a VAE-GAN")
    discriminator: str = setting(
        "patch",
        "light: two convolutions and one logit per page; patch: PatchGAN with spectral norm",
        choices=("light", "patch"),
    )
    channels: int = setting(32, "channels of the discriminator's first layer", minimum=1)
    loss: str = setting(
        "hinge", "the game's loss", choices=("hinge", "nonsaturating", "leastsquares")
    )
    weight: float = setting(
        0.5,
        "weight of the adversarial loss, mean over a page's logits; with gan.adaptive, of its "
        "gradient at the reconstruction, in units of the reconstruction losses' gradient there",
        minimum=0,
    )
    adaptive: bool = setting(True, "hold the two gradients in proportion (Esser et al. 2021)")
    adaptive_max: float = setting(1e4, "bound of the adaptive weight", above=0)
    feature_matching: float = setting(
        0.0,
        "weight of the mean squared difference of the discriminator's features, mean over layers "
        "and over a page's places and channels",
        minimum=0,
    )
    regularizer: str = setting(
        "none",
        "of the discriminator: r1 (gradient at the original pages) or lecam (moving means)",
        choices=("none", "r1", "lecam"),
    )
    regularizer_weight: float = setting(
        1.0,
        "its weight: of |gradient|^2 / 2 summed over a page's pixels (r1), or of squares (lecam)",
        minimum=0,
    )
    start_epoch: float = setting(5.0, "epoch from which the discriminator trains", minimum=0)
    warmup_epochs: float = setting(
        1.0, "epochs it then trains on its own, before it counts for the VAE", minimum=0
    )
    updates: float = setting(
        1.0, "its optimizer steps per step of the VAE; 0.5: one every second step", above=0
    )
    lr: float = setting(2e-4, "highest learning rate of its Adam", above=0)
    beta1: float = setting(0.5, "decay of the first moment", minimum=0, maximum=0.9999)
    beta2: float = setting(0.9, "decay of the second moment", minimum=0, maximum=0.999999)
    clip_norm: float = setting(1.0, "global norm its gradients are clipped to; 0: off", minimum=0)
    schedule: LrConfig = dataclasses.field(default_factory=LrConfig)


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
        choices=("no", "bf16", "fp16"),
    )
    ema_half_life_images: float = setting(
        2000.0,
        "images after which a weight's share in the average has halved; 0: no average",
        minimum=0,
    )
    log_every_images: int = setting(512, "images between logged points", minimum=1)
    validate_every_images: int = setting(8192, "images between validations", minimum=1)
    checkpoint_every_images: int = setting(8192, "images between checkpoints", minimum=1)
    keep_checkpoints: int = setting(3, "newest checkpoints kept", minimum=1)


@dataclass
class Experiment:
    name: str = setting("default", "run directory is runs/<name> unless --run-dir is given")
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    beta: BetaConfig = dataclasses.field(default_factory=BetaConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    lr: LrConfig = dataclasses.field(default_factory=LrConfig)
    gan: GanConfig = dataclasses.field(default_factory=GanConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    tracker: str = setting(
        "tensorboard",
        "who is shown the run, beside metrics.jsonl",
        choices=("tensorboard", "mlflow", "wandb", "none"),
        several=True,
    )

    @property
    def trackers(self) -> list[str]:
        """The names in `tracker`; `none` is nobody's."""
        return [name for name in self.tracker.split(",") if name != "none"]


def load_experiment(path: Path | None, overrides: list[str]) -> Experiment:
    """The experiment of a YAML file (None: all defaults) with `key=value` overrides, checked.

    Raises ConfigError with one line naming the file or key and what is allowed.
    """
    config = OmegaConf.structured(Experiment)
    if path is not None:
        tree = OmegaConf.create(read_yaml(path, "experiment file"))
        config = merge(Experiment, config, tree, f"{path}: ")
    for override in overrides:
        tree = parse_override(override)
        config = merge(Experiment, config, tree, "")
    return checked(config)


def experiment_from(tree: dict[str, Any], where: str) -> Experiment:
    """The experiment that `as_dict` turned into `tree`; raises ConfigError naming `where`."""
    config = OmegaConf.structured(Experiment)
    return checked(merge(Experiment, config, OmegaConf.create(tree), f"{where}: "))


def as_dict(experiment: Experiment) -> dict[str, Any]:
    """The experiment as nested plain dicts, ready for YAML or JSON."""
    return dataclasses.asdict(experiment)


def describe_settings() -> str:
    """One line per setting - name, default, meaning, what is allowed - for `--help`."""
    return describe(Experiment)
