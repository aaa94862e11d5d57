"""A study: an experiment, what is varied in it, and what the variants are judged by.

A study file is an experiment file with a `sweep` section:

    name: beta_sweep
    sweep:
      seeds: [0, 1, 2]
      baseline: beta.max=1.0
      space:
        beta.max: [0.1, 0.3, 1.0, 3.0]              # values, or
        optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}    # a range, for random and tpe
      variants:                                     # settings that change together, by name
        plain: {beta.schedule: constant}
        annealed: {beta.schedule: linear}
    train:
      epochs: 10

A *setting* of the study is a choice for every entry of the space, and of one variant.
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
from vaetrain.engines.spec import read_engine_file
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

ENGINES = Path(__file__).resolve().parents[1] / "accelerate_configs"
VARIANT = "variant"  # the name under which the choice of a variant is one of the space's entries
# What may change between two calls of the same study.
FREE_TO_CHANGE = {
    *("name", "tracker", "data.workers", "data.prefetch"),
    *("sweep.base", "sweep.engine", "sweep.trials", "sweep.seeds", "sweep.show", "sweep.storage"),
    *("sweep.baseline", "sweep.pruner", "sweep.prune_after_images"),
}
_RANGE = {"low", "high", "log"}
_LONGEST_LABEL = 80

Setting = dict[str, Any]
"""A choice for every entry of the space by its name: `{"variant": "plain", "beta.max": 0.1}`."""


@dataclass
class SweepConfig:
    base: str = setting("default", "experiment that is varied: a YAML file, or a name")
    engine: str = setting("single", "engine file, or a name in accelerate_configs/")
    sampler: str = setting("grid", "how settings are chosen", choices=("grid", "random", "tpe"))
    trials: int | None = setting(
        None, "settings to try; null: all of the grid, which has no default otherwise", minimum=1
    )
    seeds: list[int] = setting([0, 1, 2], "train.seed of the runs of each setting")
    metric: str = setting("ssim", "validation metric of the finished model, mean over the seeds")
    direction: str = setting(
        "maximize", "which values of the metric are better", choices=("maximize", "minimize")
    )
    show: list[str] = setting(
        ["l1", "ssim", "kl", "active_units"], "further validation metrics in the report"
    )
    pruner: str = setting(
        "none",
        "median: a setting whose first seed validates worse than the median of the others at the "
        "same image count is given up",
        choices=("none", "median"),
    )
    prune_after_images: int = setting(0, "images before which nothing is given up", minimum=0)
    baseline: str | None = setting(
        None, "label of the setting that the others are compared with; null: the first"
    )
    storage: str | None = setting(
        None,
        "URL of an SQL database, which many machines can share; null: study.db in the study's "
        "folder",
    )
    space: dict[str, Any] = setting({}, "values of settings, or ranges, by the settings' names")
    variants: dict[str, Any] = setting({}, "settings that change together, by a name for them")


@dataclass
class _StudyFile:
    sweep: SweepConfig = dataclasses.field(default_factory=SweepConfig)


@dataclass(frozen=True)
class Study:
    """A checked study.

    Attributes:
        experiment: the experiment that is varied.
        sweep: how; `space` and `variants` have flat keys here.
        config: `experiment` as OmegaConf has it, for settings to be laid over.
        engine: the engine file.
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
        """What is chosen from: lists of values and ranges, `variant` the first where there is."""
        variants = {VARIANT: list(self.sweep.variants)} if self.sweep.variants else {}
        return variants | self.sweep.space

    def grid(self) -> list[Setting]:
        """All settings, or `trials` of them; the last entry of the space varies fastest.

        The baseline is always among them, or nothing could be said of the others.
        """
        chosen = self._whole_grid()
        kept = chosen[: self.sweep.trials]
        missing = [one for one in chosen[len(kept) :] if label(one) == self.sweep.baseline]
        return [*missing, *kept][: len(kept)]

    def _whole_grid(self) -> list[Setting]:
        choices = itertools.product(*self.space.values())
        return [dict(zip(self.space, values, strict=True)) for values in choices]

    def experiment_of(self, chosen: Setting) -> Experiment:
        """The experiment of a setting; raises ConfigError naming the setting and the key."""
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
        """What makes this study itself, flat: it cannot change while its trials are compared."""
        experiment = flatten(as_dict(self.experiment))
        both = experiment | flatten({"sweep": dataclasses.asdict(self.sweep)})
        return {key: value for key, value in both.items() if key not in FREE_TO_CHANGE}


def label(chosen: Setting) -> str:
    """A setting in one word, which a folder can be called by: `plain,beta.max=0.1`."""
    plain = dict(chosen)
    words = [str(plain.pop(VARIANT))] if VARIANT in plain else []
    words += [f"{key}={value}" for key, value in plain.items()]
    return ",".join(words) or "base"


def folder_name(chosen: Setting) -> str:
    """The label where it can be a folder's name; what could not is replaced, and a hash added."""
    text = label(chosen)
    name = re.sub(r"[^\w.,=+-]", "_", text)[:_LONGEST_LABEL]
    if name != text or name.startswith("."):
        name = f"{name.lstrip('.')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return name


def load_study(path: Path, overrides: list[str]) -> Study:
    """The study of a YAML file with `key=value` overrides, of which those of `sweep.` are its own.

    Raises ConfigError in one line; every setting of a grid has been tried by then.
    """
    tree = read_yaml(path, "study file")
    if "sweep" not in tree:
        raise ConfigError(f"{path}: is no study file: it has no section sweep")
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
    engine = Path(sweep.engine)
    if not engine.suffix:
        engine = ENGINES / f"{engine}.yaml"
    study = Study(checked(config), _flat(sweep), config, engine)
    _check(study)
    return study


def describe_sweep() -> str:
    """One line per setting of the `sweep` section, for `--help`."""
    return describe(_StudyFile)


def _flat(sweep: SweepConfig) -> SweepConfig:
    """The same with dotted names as the keys of its space and of each variant."""
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
    """Raise ConfigError unless every setting that may be chosen could be trained."""
    sweep = study.sweep
    if not study.space:
        raise ConfigError("sweep.space: is empty, and so are sweep.variants: nothing is varied")
    if not sweep.seeds or len(set(sweep.seeds)) < len(sweep.seeds) or min(sweep.seeds) < 0:
        raise ConfigError(f"sweep.seeds: {sweep.seeds} are not different numbers of at least 0")
    for name, choices in study.space.items():
        if name == "train.seed":
            raise ConfigError("sweep.space.train.seed: seeds are named by sweep.seeds")
        if isinstance(choices, dict):
            _check_range(name, choices, sweep.sampler)
        elif not isinstance(choices, list) or not choices:
            raise ConfigError(f"sweep.space.{name}: {choices!r} is not a list of values or a range")
        elif any(isinstance(value, list | dict) for value in choices):
            raise ConfigError(f"sweep.space.{name}: is not a list of plain values; use variants")
        elif len(set(map(str, choices))) < len(choices):
            raise ConfigError(f"sweep.space.{name}: names a value twice")
    if sweep.sampler != "grid" and sweep.trials is None:
        raise ConfigError(f"sweep.trials: must be given with sweep.sampler={sweep.sampler}")
    for chosen in study.grid() if sweep.sampler == "grid" else _corners(study):
        study.experiment_of(chosen)
    if sweep.sampler == "grid" and sweep.baseline is not None:
        labels = [label(chosen) for chosen in study.grid()]
        if sweep.baseline not in labels:
            shown = ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
            raise ConfigError(
                f"sweep.baseline: there is no {sweep.baseline!r}; settings are {shown}"
            )


def _check_range(name: str, choices: dict[str, Any], sampler: str) -> None:
    where = f"sweep.space.{name}"
    if sampler == "grid":
        raise ConfigError(f"{where}: is a range, and a grid needs a list of values")
    low, high, log = choices.get("low"), choices.get("high"), choices.get("log", False)
    numbers = all(type(end) in (int, float) for end in (low, high))
    if choices.keys() - _RANGE or not numbers or not isinstance(log, bool) or low >= high:
        raise ConfigError(f"{where}: {choices} is not low, high and log (true or false)")
    if log and low <= 0:
        raise ConfigError(f"{where}: low is {low}, must be more than 0 where log is true")


def _corners(study: Study) -> Iterator[Setting]:
    """Settings that hold every value of the space, and both ends of its ranges, at least once."""
    ends = {
        name: [choices["low"], choices["high"]] if isinstance(choices, dict) else choices
        for name, choices in study.space.items()
    }
    first = {name: values[0] for name, values in ends.items()}
    for name, values in ends.items():
        for value in values:
            yield first | {name: value}
