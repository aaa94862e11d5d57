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

from shards.cache import CacheOptions
from shards.command import UserError
from shards.remote import parse_location, protocol_of
from vaetrain.collapse import CollapseConfig
from vaetrain.schedules import BetaConfig, CurriculumConfig, LrConfig, SkipConfig
from vaetrain.settings import (
    ConfigError,
    check_plain,
    checked,
    describe,
    merge,
    parse_override,
    read_yaml,
    setting,
)

PRECISIONS = ("no", "bf16", "fp16")
SAMPLE_SHARDS = Path("data") / "sample"


@dataclass
class DataConfig:
    shards: str | None = setting(
        None,
        "folder of built shards, or its address: s3://, gs:// or http(s)://; null: the built-in "
        "sample, built into data/sample if absent",
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

    cache_dir: str | None = setting(
        None,
        "folder of this machine, for what is fetched from an address; all processes and runs may "
        "share it; null: vaetrain in $XDG_CACHE_HOME or ~/.cache",
    )
    cache_gb: float = setting(50.0, "size of it: 10^9 bytes of shards, at most", above=0)
    retry_seconds: float = setting(
        300.0,
        "how long a shard that cannot be fetched is tried for before the run ends",
        minimum=0,
    )

    @property
    def folder(self) -> str | Path:
        """The folder of the shards, or their address; the built-in sample's unless set.

        Raises ConfigError for an address that is not read.
        """
        if self.shards is None:
            return SAMPLE_SHARDS
        try:
            return parse_location(self.shards)
        except UserError as error:
            raise ConfigError(f"data.shards: {error}") from error

    @property
    def cache(self) -> CacheOptions:
        """How files of an address are cached."""
        return CacheOptions(self.cache_dir, self.cache_gb, self.retry_seconds)


@dataclass
class ModelConfig:
    size: str = setting("tiny", "width and depth", choices=("tiny", "small", "base", "large"))
    blocks: str = setting("resnet", "encoder and decoder blocks", choices=("resnet", "densenet"))
    attention: str = setting("cbam", "attention in every block", choices=("none", "cbam"))
    skips: str = setting(
        "none",
        "what the decoder gets beside the latent: nothing, the encoder's features behind a gate "
        "(section skips), or a ladder of latents with a learned prior",
        choices=("none", "gated", "hierarchical"),
    )
    latent: str = setting(
        "vector",
        "shape of the latent: one vector a page, or one every 16 x 16 pixels",
        choices=("vector", "spatial"),
    )
    latent_dim: int = setting(128, "dimensions of the vector, or of each of them", minimum=1)
    start: str = setting(
        "components",
        "the linear path from page to a vector latent and back: the training pages' principal "
        "components, or random weights",
        choices=("components", "random"),
    )
    start_logvar: float = setting(
        -3.0,
        "log variance of the posterior at a start from components, whose variance is 1",
        minimum=-10,
        maximum=0,
    )
    pyramid: list[int] = setting(
        [1, 2, 4], "bins per side of each pyramid-pooling level", minimum=1, maximum=32
    )
    output: str = setting(
        "linear",
        "what the decoder gives: the page itself, or its logits, as loss.pixel=bce needs",
        choices=("linear", "sigmoid"),
    )


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
    pixel: str = setting(
        "l1",
        "reconstruction loss, mean over pixels",
        choices=("l1", "mse", "charbonnier", "bce"),
    )
    recon: float = setting(1.0, "weight of the reconstruction loss", minimum=0)
    ssim: float = setting(0.1, "weight of 1 - SSIM, mean over a page's windows", minimum=0)
    ms_ssim: float = setting(0.0, "weight of 1 - MS-SSIM", minimum=0)
    gradient: float = setting(
        0.0,
        "weight of the L1 between neighbouring pixels' differences, mean along x plus y",
        minimum=0,
    )
    perceptual: float = setting(
        0.0, "weight of the distance between a frozen network's features", minimum=0
    )
    perceptual_net: str = setting(
        "features",
        "that network: a page encoder, or the backbone of LPIPS",
        choices=("features", "alex", "vgg", "squeeze"),
    )
    perceptual_weights: str | None = setting(
        None,
        "where its weights are; features: a run directory, null: random weights; LPIPS: the "
        "backbone's file, null: torch's cache",
    )
    combine: str = setting(
        "fixed",
        "the weights of all but the KL as they are set, or each also divided by a learned variance",
        choices=("fixed", "learned"),
    )


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


@dataclass
class GanConfig:
    enabled: bool = setting(False, "train against a discriminator: a VAE-GAN")
    discriminator: str = setting(
        "patch",
        "light: two convolutions and one logit per page; patch: PatchGAN with spectral norm",
        choices=("light", "patch"),
    )
    channels: int = setting(32, "channels of the discriminator's first layer", minimum=1)
    input_scale: float = setting(
        1.0,
        "what pages are multiplied by before the discriminator sees them: 40 makes a level of "
        "nesting 1, and faint differences large beside its biases",
        above=0,
    )
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
class Experiment:
    name: str = setting("default", "run directory is runs/<name> unless --run-dir is given")
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    skips: SkipConfig = dataclasses.field(default_factory=SkipConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    curriculum: CurriculumConfig = dataclasses.field(default_factory=CurriculumConfig)
    beta: BetaConfig = dataclasses.field(default_factory=BetaConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    lr: LrConfig = dataclasses.field(default_factory=LrConfig)
    collapse: CollapseConfig = dataclasses.field(default_factory=CollapseConfig)
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
    return checked_together(checked(config))


def experiment_from(tree: Any, where: str) -> Experiment:
    """The experiment that `as_dict` turned into `tree`; raises ConfigError naming `where`."""
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: holds no settings")
    check_plain(tree, where)
    config = OmegaConf.structured(Experiment)
    return checked(merge(Experiment, config, OmegaConf.create(tree), f"{where}: "))


def checked_together(experiment: Experiment) -> Experiment:
    """The experiment, where its settings go with one another; raises ConfigError."""
    data, train = experiment.data, experiment.train
    is_remote = protocol_of(data.folder) is not None
    if experiment.augment.policy == "auto" and is_remote:
        raise ConfigError(
            "augment.policy: auto lies in a folder of shards; with an address name the policy file"
        )
    if is_remote and data.retry_seconds >= train.timeout_seconds:
        raise ConfigError(
            f"data.retry_seconds: {data.retry_seconds:g} must be less than "
            f"train.timeout_seconds={train.timeout_seconds:g}, for which the other ranks wait"
        )
    if (experiment.loss.pixel == "bce") != (experiment.model.output == "sigmoid"):
        raise ConfigError(
            "loss.pixel: bce and model.output=sigmoid need one another; here they are "
            f"loss.pixel={experiment.loss.pixel} and model.output={experiment.model.output}"
        )
    name = Path(experiment.name)
    if name.is_absolute() or ".." in name.parts or not name.parts:
        raise ConfigError(f"name: {experiment.name!r} is not allowed; it must lie below runs/")
    starts = [phase.epoch for phase in experiment.curriculum.phases]
    if starts != sorted(set(starts)):
        raise ConfigError(f"curriculum.phases: their epochs must rise, and are {starts}")
    return experiment


def as_dict(experiment: Experiment) -> dict[str, Any]:
    """The experiment as nested plain dicts, ready for YAML or JSON."""
    return dataclasses.asdict(experiment)


def describe_settings() -> str:
    """One line per setting - name, default, meaning, what is allowed - for `--help`."""
    return describe(Experiment)
