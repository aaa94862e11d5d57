"""What augmentation does, how often and how strongly: policies by name or from a file.

A policy file is YAML, an operation a line:

    flip: {probability: 0.5, magnitude: 1}
    rotate: {probability: 1, magnitude: 5}

`vaetrain.augment.search` writes one.
Nothing heavy is imported here: a mistake is refused before anything starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.storage import write_atomic
from vaetrain.augmentation.config import AugmentConfig
from vaetrain.data.config import SAMPLE_SHARDS
from vaetrain.settings import ConfigError, read_yaml


@dataclass(frozen=True)
class Op:
    """An operation; at strength 0 it does nothing.

    meaning: what its strength says, with the unit.
    full: the strength that level 1 of `randaugment` and `trivialaugment` stands for.
    most: the highest strength allowed.
    corrupts: it spoils the model's input only, the target stays clean.
    """

    meaning: str
    full: float
    most: float
    corrupts: bool = False


# Append only: an operation's place decides which random draws are its own.
OPS = {
    "flip": Op("mirror left and right, at any strength above 0", 1.0, 1.0),
    "translate": Op("largest shift along each axis, share of the page's side", 0.2, 1.0),
    "scale": Op("largest change of size about the centre: 0.1 is 0.9 to 1.1 times", 0.3, 0.9),
    "crop": Op("largest share of both sides cut away, what is left filling the page", 0.3, 0.9),
    "jitter": Op("farthest each edge of a box moves, share of the page's width", 0.02, 0.5),
    "dropout": Op("share of the boxes left out", 0.3, 1.0),
    "lines": Op("lines added on average", 4.0, 4.0),
    "boxes": Op("boxes added on average", 4.0, 4.0),
    "text": Op("blocks of text-like rows added on average", 2.0, 2.0),
    "rotate": Op("largest rotation either way, degrees", 15.0, 45.0),
    "perspective": Op("farthest a corner moves inward, share of half the side", 0.5, 0.9),
    "brightness": Op("largest change of the factor 1 on every value", 0.5, 1.0),
    "contrast": Op("largest change of the factor 1 on the distance from the mean", 0.5, 1.0),
    "tone": Op("as contrast, drawn on its own: domain randomisation", 0.5, 1.0),
    "noise": Op("standard deviation of the Gaussian noise", 0.1, 1.0, corrupts=True),
    "salt_pepper": Op("share of the pixels that turn 0 or 1", 0.1, 1.0, corrupts=True),
    "erase": Op("largest share of the page in the erased rectangle", 0.33, 1.0, corrupts=True),
}

CHOICES = tuple(name for name, op in OPS.items() if not op.corrupts)
"""The operations that `randaugment` and `trivialaugment` choose from."""

ADDED = ("lines", "boxes", "text")
"""The operations that add boxes."""


@dataclass(frozen=True)
class Chance:
    """How often an operation is applied to a page, and its strength then."""

    probability: float
    magnitude: float


@dataclass(frozen=True)
class Policy:
    """Independent chances of operations, and maybe some chosen at random for every page.

    chances: by operation.
    choose: so many of `CHOICES` are applied to every page besides.
    level: their strength as a share of `Op.full`; None: drawn for every page.
    """

    chances: Mapping[str, Chance]
    choose: int = 0
    level: float | None = None

    def uses(self, name: str) -> bool:
        """Whether the operation can happen at all."""
        chance = self.chances.get(name)
        certain = chance is not None and chance.probability > 0 and chance.magnitude > 0
        return certain or (self.choose > 0 and self.level != 0 and name in CHOICES)

    def without_corruption(self) -> Policy:
        """The same policy with the model's input left as clean as its target."""
        kept = {name: chance for name, chance in self.chances.items() if not OPS[name].corrupts}
        return Policy(kept, self.choose, self.level)


_CORRUPTION = {
    "noise": Chance(0.5, 0.02),
    "salt_pepper": Chance(1.0, 0.04),
    "erase": Chance(0.35, 0.33),
}

_DEFAULT = {
    "flip": Chance(0.5, 1.0),
    "translate": Chance(0.5, 0.05),
    "scale": Chance(0.5, 0.1),
    "crop": Chance(0.3, 0.1),
    "jitter": Chance(0.5, 0.004),
    "dropout": Chance(0.5, 0.05),
    "lines": Chance(0.3, 1.0),
    "boxes": Chance(0.2, 1.0),
    "text": Chance(0.2, 1.0),
    "rotate": Chance(1.0, 5.0),
    "perspective": Chance(0.3, 0.2),
    "brightness": Chance(1.0, 0.1),
    "contrast": Chance(1.0, 0.1),
    "tone": Chance(0.5, 0.2),
    **_CORRUPTION,
}

_STRONG = {
    "flip": Chance(0.5, 1.0),
    "translate": Chance(0.8, 0.1),
    "scale": Chance(0.8, 0.2),
    "crop": Chance(0.5, 0.25),
    "jitter": Chance(0.8, 0.01),
    "dropout": Chance(0.8, 0.15),
    "lines": Chance(0.6, 2.0),
    "boxes": Chance(0.5, 2.0),
    "text": Chance(0.5, 1.5),
    "rotate": Chance(1.0, 10.0),
    "perspective": Chance(0.6, 0.35),
    "brightness": Chance(1.0, 0.25),
    "contrast": Chance(1.0, 0.25),
    "tone": Chance(0.8, 0.3),
    "noise": Chance(0.8, 0.05),
    "salt_pepper": Chance(1.0, 0.08),
    "erase": Chance(0.6, 0.33),
}

NAMES = ("none", "default", "strong", "randaugment", "trivialaugment")

AUTO = "auto"
FOUND_NAME = "policy.yaml"
"""The file in the folder of the shards that `auto` stands for."""


def load_policy(config: AugmentConfig, shards: str | Path = SAMPLE_SHARDS) -> Policy:
    """The policy of a name of `NAMES`, of `auto`, or of a YAML file.

    `randaugment` (Cubuk et al. 2020) applies `config.ops` operations of strength `config.level`,
    `trivialaugment` (Müller and Hutter 2021) one of random strength. `auto` is what a search left
    beside the shards.

    Args:
        shards: the folder of the shards that are trained on, or their address.

    Raises ConfigError naming the file or key and what is allowed.
    """
    if config.ops > len(CHOICES):
        raise ConfigError(f"augment.ops: {config.ops} is not allowed; at most {len(CHOICES)}")
    named = {
        "none": Policy({}),
        "default": Policy(_DEFAULT),
        "strong": Policy(_STRONG),
        "randaugment": Policy(_CORRUPTION, choose=config.ops, level=config.level),
        "trivialaugment": Policy(_CORRUPTION, choose=1),
    }
    if config.policy in named:
        policy = named[config.policy]
    elif config.policy == AUTO:
        policy = _read_found(Path(shards))
    elif Path(config.policy).exists():
        policy = _read_policy(Path(config.policy))
    else:
        raise ConfigError(
            f"augment.policy: {config.policy!r} is neither a policy nor a file; allowed: "
            f"{' | '.join((*NAMES, AUTO))}, or the path of a policy file"
        )
    return policy if config.denoise else policy.without_corruption()


def write_policy(path: Path, policy: Policy, comment: str) -> None:
    """Write the policy's chances as a policy file, whole or not at all, below a line of comment."""
    lines = [f"# {comment}"]
    for name, chance in policy.chances.items():
        entry = f"{{probability: {chance.probability:g}, magnitude: {chance.magnitude:g}}}"
        lines.append(f"{name}: {entry}")
    if not policy.chances:
        lines.append("{}")
    write_atomic(path, "\n".join(lines) + "\n")


def _read_found(shards: Path) -> Policy:
    path = shards / FOUND_NAME
    if not path.exists():
        raise ConfigError(
            f"augment.policy: auto is the policy in {path}, which is not there; a search writes "
            f"it: python -m vaetrain.augment.search data.shards={shards}"
        )
    return _read_policy(path)


def _read_policy(path: Path) -> Policy:
    tree = read_yaml(path, "policy file")
    return Policy({str(name): _read_chance(f"{path}: {name}", name, tree[name]) for name in tree})


def _read_chance(where: str, name: Any, entry: Any) -> Chance:
    if name not in OPS:
        raise ConfigError(f"{where}: there is no such operation; allowed: {', '.join(OPS)}")
    if not isinstance(entry, dict) or set(entry) != {"probability", "magnitude"}:
        raise ConfigError(f"{where}: allowed is {{probability: ..., magnitude: ...}}")
    for key, most in (("probability", 1.0), ("magnitude", OPS[name].most)):
        value = entry[key]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= most:  # false for NaN, too
            raise ConfigError(f"{where}.{key}: {value!r} is not allowed; allowed: 0 to {most:g}")
    return Chance(float(entry["probability"]), float(entry["magnitude"]))
