"""All settings of an experiment, assembled from the sections that each package declares.

An experiment is a YAML file, such as those in `launch/experiments/`. `key=value` on the command
line overrides a setting by its dotted name.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from shards.location import protocol_of
from vaetrain.augmentation.config import AugmentConfig
from vaetrain.config.training import MIN_PAGES, CollapseConfig, TrainConfig
from vaetrain.data.batching import Batching, split_global_batch
from vaetrain.data.config import DataConfig
from vaetrain.engines.config import EngineConfig, OptimizerConfig
from vaetrain.gan.config import GanConfig
from vaetrain.losses.config import BetaConfig, CurriculumConfig, LossConfig
from vaetrain.losses.terms import PIXEL_LOSSES
from vaetrain.model.config import ModelConfig, SkipConfig
from vaetrain.model.registry import STRIDES
from vaetrain.prior.config import PriorConfig
from vaetrain.schedules import Clock, LrConfig
from vaetrain.settings import (
    AUTO,
    ConfigError,
    check_plain,
    checked,
    describe,
    merge,
    parse_override,
    read_yaml,
    setting,
)
from vaetrain.trackers.config import TrackerConfig


@dataclass
class Experiment:
    """All settings of a training."""

    name: str = setting("default", "the run directory is runs/<name> without --run-dir")
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    skips: SkipConfig = dataclasses.field(default_factory=SkipConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    curriculum: CurriculumConfig = dataclasses.field(default_factory=CurriculumConfig)
    beta: BetaConfig = dataclasses.field(default_factory=BetaConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    engine: EngineConfig = dataclasses.field(default_factory=EngineConfig)
    lr: LrConfig = dataclasses.field(default_factory=LrConfig)
    collapse: CollapseConfig = dataclasses.field(default_factory=CollapseConfig)
    gan: GanConfig = dataclasses.field(default_factory=GanConfig)
    prior: PriorConfig = dataclasses.field(default_factory=PriorConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    tracker: TrackerConfig = dataclasses.field(default_factory=TrackerConfig)

    def batching(self, world_size: int) -> Batching:
        """Return micro batch and accumulation for a number of ranks; raise ConfigError if none."""
        train, pairs = self.train, self.augment.mixup_alpha > 0
        return split_global_batch(
            train.global_batch_size, train.micro_batch_size, world_size, pairs=pairs
        )

    def clock(self, epoch_images: int) -> Clock:
        """Return the clock of this experiment for a number of training pages."""
        train = self.train
        return Clock.of(train.epochs, train.max_images, train.global_batch_size, epoch_images)

    @property
    def trackers(self) -> list[str]:
        """Names of the trackers in `tracker.use`, without `none`."""
        return [name for name in self.tracker.use.split(",") if name != "none"]


def load_experiment(path: Path | None, overrides: list[str]) -> Experiment:
    """Return the checked experiment of a YAML file (None: all defaults) and `key=value` overrides.

    Raises ConfigError with one line that names the file or key and the allowed values.
    """
    config = OmegaConf.structured(Experiment)
    if path is not None:
        tree = OmegaConf.create(read_yaml(path, "experiment file"))
        config = merge(Experiment, config, tree, f"{path}: ")
    return _overridden(config, overrides)


def override(experiment: Experiment, overrides: list[str]) -> Experiment:
    """Return the experiment with `key=value` overrides; raises ConfigError in one line."""
    return _overridden(OmegaConf.structured(experiment), overrides)


def _overridden(config: DictConfig, overrides: list[str]) -> Experiment:
    for text in overrides:
        config = merge(Experiment, config, parse_override(text), "")
    return checked_together(checked(config))


def experiment_from(tree: Any, where: str) -> Experiment:
    """Return the experiment that `as_dict` has written; raise ConfigError that names `where`."""
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: contains no settings")
    check_plain(tree, where)
    config = OmegaConf.structured(Experiment)
    return checked(merge(Experiment, config, OmegaConf.create(tree), f"{where}: "))


def checked_together(experiment: Experiment) -> Experiment:
    """Return the experiment; raise ConfigError if two of its settings contradict each other."""
    data, train = experiment.data, experiment.train
    is_remote = protocol_of(data.folder) is not None
    if experiment.augment.policy == AUTO and is_remote:
        raise ConfigError(
            "augment.policy: auto needs a local folder of shards, but data.shards is an address; "
            "give the path of a policy file"
        )
    if is_remote and data.retry_seconds >= train.timeout_seconds:
        raise ConfigError(
            f"data.retry_seconds: {data.retry_seconds:g} must be less than "
            f"train.timeout_seconds={train.timeout_seconds:g}, after which the other ranks give up"
        )
    check_partitions(experiment)
    pixel, output = experiment.loss.pixel, experiment.model.output
    if PIXEL_LOSSES[pixel].output != output:
        # The pair of the value that is not the default, l1 or linear.
        fitting = next(name for name, loss in PIXEL_LOSSES.items() if loss.output == output)
        pair = (fitting, output) if output != "linear" else (pixel, PIXEL_LOSSES[pixel].output)
        raise ConfigError(
            f"loss.pixel: {pair[0]} and model.output={pair[1]} must be used together; they are "
            f"loss.pixel={pixel} and model.output={output}"
        )
    channels = experiment.model.ladder_channels
    if len(channels) != len(STRIDES) or not any(channels):
        raise ConfigError(
            f"model.ladder_channels: {channels} is not allowed; give {len(STRIDES)} numbers, not "
            "all 0, one for each level"
        )
    if experiment.prior.kind == "flow" and experiment.model.latent != "vector":
        raise ConfigError(
            "prior.kind: flow needs model.latent=vector; with model.latent="
            f"{experiment.model.latent} use prior.kind=auto or none"
        )
    if 0 < train.validation_samples < MIN_PAGES:
        raise ConfigError(
            f"train.validation_samples: {train.validation_samples} are too few to be compared with "
            f"training pages; use {MIN_PAGES} or more, or 0 for none"
        )
    name = Path(experiment.name)
    if name.is_absolute() or ".." in name.parts or not name.parts:
        raise ConfigError(
            f"name: {experiment.name!r} is not allowed; it must be a path inside runs/"
        )
    starts = [phase.epoch for phase in experiment.curriculum.phases]
    if starts != sorted(set(starts)):
        raise ConfigError(f"curriculum.phases: epochs must increase; they are {starts}")
    return experiment


def check_partitions(experiment: Experiment) -> None:
    """Raise ConfigError if a global batch cannot have equal parts of all partitions."""
    partitions, total = experiment.data.partitions, experiment.train.global_batch_size
    if partitions is None:
        return
    if total % partitions:
        raise ConfigError(
            f"data.partitions: {partitions} does not divide train.global_batch_size={total}; give "
            "a divisor, or null"
        )
    if experiment.augment.mixup_alpha > 0 and partitions > 1 and total // partitions % 2:
        raise ConfigError(
            f"data.partitions: mixup needs pairs of pages, but {partitions} partitions have "
            f"{total // partitions} pages each of a global batch of {total}; give fewer, or null"
        )


def as_dict(experiment: Experiment) -> dict[str, Any]:
    """Return the experiment as nested dicts, for YAML or JSON."""
    return dataclasses.asdict(experiment)


def describe_settings() -> str:
    """Return name, default, meaning and allowed values of all settings, for `--help`."""
    return describe(Experiment)
