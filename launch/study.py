"""Studies: an experiment, the settings that vary in it, and the metric that ranks them.

A study file is an experiment file with a `sweep` section:

    name: beta_sweep
    sweep:
      seeds: [0, 1, 2]
      baseline: beta.max=1.0
      space:
        beta.max: [0.1, 0.3, 1.0, 3.0]              # a list of values, or
        optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}    # a range, for random and tpe
      variants:                                     # named groups of settings
        plain: {beta.schedule: constant}
        annealed: {beta.schedule: linear}
    train:
      epochs: 10

A *setting* of the study is one value for every entry of the space, and one variant.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from vaetrain.augmentation.policy import load_policy
from vaetrain.config.command import experiment_path
from vaetrain.config.experiment import Experiment, as_dict, checked_together
from vaetrain.engines.engine_files import engine_file, read_engine_file
from vaetrain.settings import (
    ConfigError,
    checked,
    describe,
    flatten,
    merge,
    parse_override,
    read_yaml,
    setting,
)

VARIANT = "variant"  # the name of the variant among the entries of the space
# Settings that may differ between two calls of the same study.
FREE_TO_CHANGE = {
    *("name", "tracker", "tracker.use", "tracker.experiment", "data.workers", "data.prefetch"),
    *("sweep.base", "sweep.engine", "sweep.trials", "sweep.seeds", "sweep.show", "sweep.storage"),
    *("sweep.baseline", "sweep.pruner", "sweep.prune_after_images"),
}
_RANGE = {"low", "high", "log"}
_LONGEST_LABEL = 80

DIRECTIONS = ("maximize", "minimize")
DEFAULT_METRICS = {"l1": "minimize", "precision_at_10": "maximize"}

Setting = dict[str, Any]
"""The value of every entry of the space by name: `{"variant": "plain", "beta.max": 0.1}`."""


@dataclass
class SweepConfig:
    base: str = setting("default", "base experiment: a YAML file, or a name in launch/experiments/")
    engine: str = setting("single", "engine file, or a name in accelerate_configs/")
    sampler: str = setting(
        "grid", "method that chooses the settings", choices=("grid", "random", "tpe")
    )
    trials: int | None = setting(
        None, "number of settings; null: the whole grid; required by random and tpe", minimum=1
    )
    seeds: list[int] = setting(
        [0, 1, 2], "values of train.seed; each setting is trained once with each of them"
    )
    metric: str = setting(
        "ssim", "validation metric of the final model, mean over the seeds, that ranks the settings"
    )
    direction: str = setting(
        "maximize",
        "whether higher or lower values of the metric are better",
        choices=DIRECTIONS,
    )
    metrics: dict[str, Any] = setting(
        {},
        "further metrics by which settings are compared with the baseline, each with its "
        "direction; {}: l1 (minimize) and precision_at_10 (maximize), so that reconstruction and "
        "embedding both count",
    )
    show: list[str] = setting(
        ["l1", "ssim", "kl", "active_units"], "further validation metrics in the report"
    )
    pruner: str = setting(
        "none",
        "median: stop a setting whose first seed validates worse than the median of the other "
        "settings at the same image count",
        choices=("none", "median"),
    )
    prune_after_images: int = setting(
        0, "image count before which no setting is stopped", minimum=0
    )
    baseline: str | None = setting(
        None, "label of the setting that all others are compared with; null: the first"
    )
    storage: str | None = setting(
        None,
        "URL of an SQL database that several machines can share; null: study.db in the folder of "
        "the study",
    )
    space: dict[str, Any] = setting({}, "lists of values, or ranges, by name of the setting")
    variants: dict[str, Any] = setting({}, "groups of settings that change together, by name")


@dataclass
class _StudyFile:
    sweep: SweepConfig = dataclasses.field(default_factory=SweepConfig)


@dataclass(frozen=True)
class Study:
    """A checked study.

    Attributes:
        experiment: the base experiment.
        sweep: the section `sweep`; keys of `space` and `variants` are flat (dotted).
        config: `experiment` as an OmegaConf object, into which the values of a setting are merged.
        engine: path of the engine file.
    """

    experiment: Experiment
    sweep: SweepConfig
    config: Any
    engine: Path

    @property
    def name(self) -> str:
        return self.experiment.name

    @cached_property
    def space(self) -> dict[str, Any]:
        """Lists of values and ranges by name; `variant` comes first if the study has variants."""
        variants = {VARIANT: list(self.sweep.variants)} if self.sweep.variants else {}
        return variants | self.sweep.space

    @cached_property
    def judges(self) -> dict[str, str]:
        """Directions of the metrics that settings are compared by; that of the ranking is first."""
        further = self.sweep.metrics or DEFAULT_METRICS
        return {self.sweep.metric: self.sweep.direction} | {
            name: further[name] for name in further if name != self.sweep.metric
        }

    def grid(self) -> list[Setting]:
        """Return all settings of the grid, or the first `sweep.trials` of them.

        The last entry of the space varies fastest. The baseline is always included, because all
        other settings are compared with it.
        """
        chosen = self._whole_grid()
        kept = chosen[: self.sweep.trials]
        omitted = chosen[len(kept) :]
        missing = [candidate for candidate in omitted if label(candidate) == self.sweep.baseline]
        return [*missing, *kept][: len(kept)]

    def _whole_grid(self) -> list[Setting]:
        choices = itertools.product(*self.space.values())
        return [dict(zip(self.space, values, strict=True)) for values in choices]

    def experiment_of(self, chosen: Setting) -> Experiment:
        """Return the experiment of a setting; raise ConfigError naming the setting and the key."""
        plain = dict(chosen)
        variant = plain.pop(VARIANT, None)
        changes = (self.sweep.variants[variant] if variant is not None else {}) | plain
        where = f"{label(chosen)}: "
        try:
            config = self.config
            for key, value in changes.items():
                tree: Any = value
                for part in reversed(key.split(".")):
                    tree = {part: tree}
                config = merge(Experiment, config, OmegaConf.create(tree), "")
            experiment = checked_together(checked(config))
            world_size = read_engine_file(self.engine).world_size
            experiment.batching(world_size)
            load_policy(experiment.augment, experiment.data.folder)
        except ConfigError as error:
            raise ConfigError(f"{where}{error}") from error
        return experiment

    def definition(self) -> dict[str, Any]:
        """Return the flat settings that must stay the same while trials are compared."""
        experiment = flatten(as_dict(self.experiment))
        both = experiment | flatten({"sweep": dataclasses.asdict(self.sweep)})
        return {
            key: value
            for key, value in both.items()
            if key not in FREE_TO_CHANGE and not key.startswith("sweep.metrics")
        }


def label(chosen: Setting) -> str:
    """Return a setting as text without spaces: `plain,beta.max=0.1`."""
    plain = dict(chosen)
    words = [str(plain.pop(VARIANT))] if VARIANT in plain else []
    words += [f"{key}={value}" for key, value in plain.items()]
    return ",".join(words) or "base"


def folder_name(chosen: Setting) -> str:
    """Return the label as a folder name; forbidden characters are replaced and a hash is added."""
    text = label(chosen)
    name = re.sub(r"[^\w.,=+-]", "_", text)[:_LONGEST_LABEL]
    if name != text or name.startswith("."):
        name = f"{name.lstrip('.')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return name


def load_study(path: Path, overrides: list[str]) -> Study:
    """Load and check the study of a YAML file with `key=value` overrides (`sweep.*` included).

    Every setting of a grid is checked. Raises ConfigError with a one-line message.
    """
    tree = read_yaml(path, "study file")
    if "sweep" not in tree:
        raise ConfigError(f"{path}: is not a study file: the section `sweep` is missing")
    own = OmegaConf.structured(_StudyFile)
    own = merge(_StudyFile, own, OmegaConf.create({"sweep": tree.pop("sweep")}), f"{path}: ")
    further = []
    for override in overrides:
        if override.startswith("sweep."):
            own = merge(_StudyFile, own, parse_override(override), "")
        else:
            further.append(override)
    sweep = checked(own).sweep

    config = OmegaConf.structured(Experiment)
    base = experiment_path(sweep.base)
    layers = [
        (OmegaConf.create(read_yaml(base, "experiment file")), f"{base}: "),
        (OmegaConf.create(tree), f"{path}: "),
        *((parse_override(override), "") for override in further),
    ]
    for layer, where in layers:
        config = merge(Experiment, config, layer, where)
    study = Study(checked(config), _flat(sweep), config, engine_file(sweep.engine))
    _check(study)
    return study


def describe_sweep() -> str:
    """Describe the settings of the `sweep` section, one line each, for `--help`."""
    return describe(_StudyFile)


def _flat(sweep: SweepConfig) -> SweepConfig:
    """Return the section with dotted names as keys of its space and of each variant."""
    variants = {}
    for name, changes in sweep.variants.items():
        if not isinstance(changes, dict):
            raise ConfigError(f"sweep.variants.{name}: {changes!r} is not a mapping of settings")
        variants[str(name)] = flatten(changes)
    return dataclasses.replace(sweep, space=_flat_space(sweep.space, ""), variants=variants)


def _flat_space(tree: dict[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and not _RANGE & value.keys():
            flat |= _flat_space(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _check(study: Study) -> None:
    """Raise ConfigError if the study is invalid or one of its settings cannot be trained."""
    sweep = study.sweep
    if not study.space:
        raise ConfigError(
            "sweep.space: is empty, and so is sweep.variants; give at least one setting to vary"
        )
    for name, direction in sweep.metrics.items():
        if direction not in DIRECTIONS:
            raise ConfigError(
                f"sweep.metrics.{name}: {direction!r} is not allowed; allowed: "
                f"{' | '.join(DIRECTIONS)}"
            )
    if not sweep.seeds or len(set(sweep.seeds)) < len(sweep.seeds) or min(sweep.seeds) < 0:
        raise ConfigError(
            f"sweep.seeds: {sweep.seeds} must be different whole numbers, 0 or greater"
        )
    for name, choices in study.space.items():
        if name == "train.seed":
            raise ConfigError(
                "sweep.space.train.seed: is not allowed; give the seeds in sweep.seeds"
            )
        if isinstance(choices, dict):
            _check_range(name, choices, sweep.sampler)
        elif not isinstance(choices, list) or not choices:
            raise ConfigError(f"sweep.space.{name}: {choices!r} is not a list of values or a range")
        elif any(isinstance(value, list | dict) for value in choices):
            raise ConfigError(
                f"sweep.space.{name}: is a list of lists or mappings; use sweep.variants"
            )
        elif len(set(map(str, choices))) < len(choices):
            raise ConfigError(f"sweep.space.{name}: contains a value twice")
    if sweep.sampler != "grid" and sweep.trials is None:
        raise ConfigError(f"sweep.trials: is required with sweep.sampler={sweep.sampler}")
    for chosen in study.grid() if sweep.sampler == "grid" else _corners(study):
        study.experiment_of(chosen)
    if sweep.sampler == "grid" and sweep.baseline is not None:
        labels = [label(chosen) for chosen in study.grid()]
        if sweep.baseline not in labels:
            shown = ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
            raise ConfigError(
                f"sweep.baseline: no setting has the label {sweep.baseline!r}; labels are {shown}"
            )


def _check_range(name: str, choices: dict[str, Any], sampler: str) -> None:
    where = f"sweep.space.{name}"
    if sampler == "grid":
        raise ConfigError(f"{where}: is a range, but sweep.sampler=grid needs a list of values")
    low, high, log = choices.get("low"), choices.get("high"), choices.get("log", False)
    numbers = all(type(end) in (int, float) for end in (low, high))
    if choices.keys() - _RANGE or not numbers or not isinstance(log, bool) or low >= high:
        raise ConfigError(
            f"{where}: {choices} is not a range: give low < high, and log as true or false"
        )
    if log and low <= 0:
        raise ConfigError(f"{where}: low is {low}, but must be greater than 0 with log: true")


def _corners(study: Study) -> Iterator[Setting]:
    """Yield settings that together contain every listed value and both ends of every range."""
    ends = {
        name: [choices["low"], choices["high"]] if isinstance(choices, dict) else choices
        for name, choices in study.space.items()
    }
    first = {name: values[0] for name, values in ends.items()}
    for name, values in ends.items():
        for value in values:
            yield first | {name: value}
