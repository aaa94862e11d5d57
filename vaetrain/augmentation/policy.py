"""Policies: which operations are applied, how often and how strongly; by name or from a file.

A policy file is YAML, one operation a line:

    flip: {probability: 0.5, magnitude: 1}
    rotate: {probability: 1, magnitude: 5}

`vaetrain.augment.search` writes one. This module imports no torch, so that a mistake is reported
before anything starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shards.atomic_files import write_atomic
from vaetrain.augmentation.config import AugmentConfig
from vaetrain.augmentation.operations import CHOICES, OPS
from vaetrain.data.config import SAMPLE_LAYOUTS, SAMPLE_SHARDS
from vaetrain.settings import AUTO, ConfigError, read_yaml


@dataclass(frozen=True)
class OpSettings:
    """Probability that an operation is applied to a page, and its strength if it is."""

    probability: float
    magnitude: float


@dataclass(frozen=True)
class Policy:
    """Operations that are applied independently, and operations chosen at random for every page.

    Attributes:
        operations: settings by operation.
        random_count: number of `CHOICES` applied to every page in addition.
        random_level: their strength as a share of `Op.full`; None: drawn for every page.
    """

    operations: Mapping[str, OpSettings]
    random_count: int = 0
    random_level: float | None = None

    def uses(self, name: str) -> bool:
        """Return whether the operation can be applied to any page."""
        settings = self.operations.get(name)
        if settings is not None and settings.probability > 0 and settings.magnitude > 0:
            return True
        return self.random_count > 0 and self.random_level != 0 and name in CHOICES

    def without_corruption(self) -> Policy:
        """Return the policy without operations that change the model's input only."""
        kept = {name: s for name, s in self.operations.items() if not OPS[name].corrupts}
        return Policy(kept, self.random_count, self.random_level)

    def as_dict(self) -> dict[str, Any]:
        """Return the policy as checkpoints store it; these keys are part of their format."""
        return {
            "chances": {name: asdict(settings) for name, settings in self.operations.items()},
            "choose": self.random_count,
            "level": self.random_level,
        }


_CORRUPTION = {
    "noise": OpSettings(0.5, 0.02),
    "salt_pepper": OpSettings(1.0, 0.04),
    "erase": OpSettings(0.35, 0.33),
}

_DEFAULT = {
    "flip": OpSettings(0.5, 1.0),
    "translate": OpSettings(0.5, 0.05),
    "scale": OpSettings(0.5, 0.1),
    "crop": OpSettings(0.3, 0.1),
    "jitter": OpSettings(0.5, 0.004),
    "dropout": OpSettings(0.5, 0.05),
    "lines": OpSettings(0.3, 1.0),
    "boxes": OpSettings(0.2, 1.0),
    "text": OpSettings(0.2, 1.0),
    "rotate": OpSettings(1.0, 5.0),
    "perspective": OpSettings(0.3, 0.2),
    "brightness": OpSettings(1.0, 0.1),
    "contrast": OpSettings(1.0, 0.1),
    "tone": OpSettings(0.5, 0.2),
    **_CORRUPTION,
}

_STRONG = {
    "flip": OpSettings(0.5, 1.0),
    "translate": OpSettings(0.8, 0.1),
    "scale": OpSettings(0.8, 0.2),
    "crop": OpSettings(0.5, 0.25),
    "jitter": OpSettings(0.8, 0.01),
    "dropout": OpSettings(0.8, 0.15),
    "lines": OpSettings(0.6, 2.0),
    "boxes": OpSettings(0.5, 2.0),
    "text": OpSettings(0.5, 1.5),
    "rotate": OpSettings(1.0, 10.0),
    "perspective": OpSettings(0.6, 0.35),
    "brightness": OpSettings(1.0, 0.25),
    "contrast": OpSettings(1.0, 0.25),
    "tone": OpSettings(0.8, 0.3),
    "noise": OpSettings(0.8, 0.05),
    "salt_pepper": OpSettings(1.0, 0.08),
    "erase": OpSettings(0.6, 0.33),
}

NAMES = ("none", "default", "strong", "randaugment", "trivialaugment")

AUTO_FILE = "policy.yaml"
"""Name of the file in the folder of the shards that `auto` stands for.

The built-in sample has one beside its layouts, which is used if its shards have none.
"""


def load_policy(config: AugmentConfig, shards: str | Path = SAMPLE_SHARDS) -> Policy:
    """Return the policy of a name in `NAMES`, of `auto`, or of a YAML file.

    `randaugment` (Cubuk et al. 2020) applies `config.ops` operations of strength `config.level`,
    `trivialaugment` (Müller and Hutter 2021) one of random strength. `auto` is the policy file that
    a search wrote into the folder of the shards, see `AUTO_FILE`.

    Args:
        shards: folder or address of the training shards.

    Raises ConfigError naming the file or key and the allowed values.
    """
    if config.ops > len(CHOICES):
        raise ConfigError(f"augment.ops: {config.ops} is not allowed; at most {len(CHOICES)}")
    named = {
        "none": Policy({}),
        "default": Policy(_DEFAULT),
        "strong": Policy(_STRONG),
        "randaugment": Policy(_CORRUPTION, random_count=config.ops, random_level=config.level),
        "trivialaugment": Policy(_CORRUPTION, random_count=1),
    }
    if config.policy in named:
        policy = named[config.policy]
    elif config.policy == AUTO:
        policy = _read_auto(Path(shards))
    elif Path(config.policy).exists():
        policy = _read_policy(Path(config.policy))
    else:
        raise ConfigError(
            f"augment.policy: {config.policy!r} is neither a policy nor a file; allowed: "
            f"{' | '.join((*NAMES, AUTO))}, or the path of a policy file"
        )
    return policy if config.denoise else policy.without_corruption()


def write_policy(path: Path, policy: Policy, comment: str) -> None:
    """Write the policy's operations as a policy file, atomically, below a comment line."""
    lines = [f"# {comment}"]
    for name, settings in policy.operations.items():
        entry = f"{{probability: {settings.probability:g}, magnitude: {settings.magnitude:g}}}"
        lines.append(f"{name}: {entry}")
    if not policy.operations:
        lines.append("{}")
    write_atomic(path, "\n".join(lines) + "\n")


def _read_auto(shards: Path) -> Policy:
    path = shards / AUTO_FILE
    if not path.exists() and shards == SAMPLE_SHARDS:
        path = SAMPLE_LAYOUTS / AUTO_FILE
    if not path.exists():
        raise ConfigError(
            f"augment.policy: auto needs {path}, which does not exist; a search writes it: "
            f"python -m vaetrain.augment.search data.shards={shards}"
        )
    return _read_policy(path)


def _read_policy(path: Path) -> Policy:
    tree = read_yaml(path, "policy file")
    return Policy({str(name): _read_entry(f"{path}: {name}", name, tree[name]) for name in tree})


def _read_entry(where: str, name: Any, entry: Any) -> OpSettings:
    if name not in OPS:
        raise ConfigError(f"{where}: unknown operation; allowed: {', '.join(OPS)}")
    if not isinstance(entry, dict) or set(entry) != {"probability", "magnitude"}:
        raise ConfigError(f"{where}: must be {{probability: ..., magnitude: ...}}")
    for key, maximum in (("probability", 1.0), ("magnitude", OPS[name].maximum)):
        value = entry[key]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= maximum:  # false for NaN, too
            raise ConfigError(f"{where}.{key}: {value!r} is not allowed; allowed: 0 to {maximum:g}")
    return OpSettings(float(entry["probability"]), float(entry["magnitude"]))
