"""Checkpoints any engine at any world size can read, that appear whole or not at all.

One folder per checkpoint, named by its image count:

    weights.safetensors     parameters and buffers by name, fp32
    average.safetensors     their exponential moving average, by name
    optimizer.safetensors   the optimizer's tensors as <state>.<parameter name>
    adversary.safetensors   the discriminator, its optimizer and its controllers; empty without one
    state.json              clock, controllers, resolved experiment and augmentation policy
    manifest.json           SHA-256 of each file above

Tensors are safetensors and the rest is JSON: nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from shards.errors import one_line
from shards.storage import atomic_folder, remove_folder, sha256_of, writing
from vaetrain.augmentation.policy import Policy
from vaetrain.config.experiment import Experiment, as_dict
from vaetrain.settings import ConfigError, flatten

MANIFEST = "manifest.json"
STATE = "state.json"
# What reading a file raises that holds other JSON or tensors than it should.
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError)
PARTS = ("weights", "average", "optimizer", "adversary")

# What a training says in it.
STATE_KEYS = {"experiment", "policy", "data", "meter", "collapse", "controllers", "best"}

# What may change between a run and its resumption without changing what it computes.
FREE_TO_CHANGE = {
    "name",
    "tracker",
    "data.shards",
    "data.cache_dir",
    "data.cache_gb",
    "data.retry_seconds",
    "data.workers",
    "data.prefetch",
    "collapse.action",
    "collapse.inactive_share",
    "train.epochs",
    "train.max_images",
    "train.micro_batch_size",
    "train.precision",
    "train.log_every_images",
    "train.validate_every_images",
    "train.checkpoint_every_images",
    "train.keep_checkpoints",
    "train.max_skipped_steps",
    "train.timeout_seconds",
    "train.on_failed_save",
}


class DamagedCheckpoint(ValueError):
    """A checkpoint that is not what was written; the message is one plain line."""


@dataclass
class Checkpoint:
    """A run's whole state, on the host.

    Attributes:
        images: the clock.
        weights, average, optimizer, adversary: tensors by name.
        state: JSON of the controllers and the resolved experiment.
    """

    images: int
    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    adversary: dict[str, Tensor]
    state: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `folder/<images>`, whole or not at all, and remove all but the newest `keep`.

    Raises CannotWrite where the disk refuses; what was saved before is still there then.
    """
    final = folder / f"{checkpoint.images:012d}"
    with writing(final):
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.tmp"):
            shutil.rmtree(leftover)
    with atomic_folder(final) as draft:
        for part in PARTS:
            save_tensors(draft / f"{part}.safetensors", getattr(checkpoint, part))
        state = {"images": checkpoint.images, **checkpoint.state}
        (draft / STATE).write_text(json.dumps(state))
        digests = {file.name: sha256_of(file) for file in sorted(draft.iterdir())}
        (draft / MANIFEST).write_text(json.dumps(digests, indent=1))
    with writing(folder):
        for old in saved(folder)[:-keep]:
            remove_folder(old)
    return final


def saved(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir())


def load(path: Path) -> Checkpoint:
    """Read a checkpoint and check it against its manifest.

    Raises DamagedCheckpoint naming the file that is missing or differs.
    """
    try:
        digests = json.loads((path / MANIFEST).read_text())
        for name in (*(f"{part}.safetensors" for part in PARTS), STATE):
            if sha256_of(path / name) != digests[name]:
                raise DamagedCheckpoint(f"{path / name}: its SHA-256 is not the manifest's")
        state = json.loads((path / STATE).read_text())
        images = int(state.pop("images"))
        tensors = {part: load_file(path / f"{part}.safetensors") for part in PARTS}
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{error.filename}: is missing") from error
    except DamagedCheckpoint:
        raise
    except (OSError, *UNREADABLE) as error:
        raise DamagedCheckpoint(one_line(f"{path}: cannot be read ({error})")) from error
    return Checkpoint(images=images, state=state, **tensors)


def check_same_run(
    saved: Checkpoint, experiment: Experiment, policy: Policy, fingerprint: str
) -> None:
    """Raises ConfigError where going on from a checkpoint would be another run.

    Args:
        fingerprint: of the data now.
    """
    check_complete(saved.state)
    check_same_experiment(saved.state["experiment"], experiment)
    check_same_policy(saved.state["policy"], policy)
    if saved.state["data"] != fingerprint:
        raise ConfigError(f"{experiment.data.folder}: is not the data the run was started on")


def check_complete(state: dict[str, Any]) -> None:
    """Raises ConfigError where a state lacks what a resumption needs; see `STATE_KEYS`."""
    missing = STATE_KEYS - state.keys()
    if missing:
        raise ConfigError(
            f"the run's checkpoint says nothing of {', '.join(sorted(missing))}: another version "
            "of this software wrote it; give another --run-dir"
        )


@contextlib.contextmanager
def of_this_version() -> Iterator[None]:
    """Around what goes on from a state; raises ConfigError where a part of it lacks something."""
    try:
        yield
    except KeyError as error:
        raise ConfigError(
            f"the run's checkpoint says nothing of {error}: another version of this software wrote "
            "it; give another --run-dir"
        ) from error


def check_same_experiment(saved_experiment: dict[str, Any], experiment: Experiment) -> None:
    """Refuse to resume where a setting that changes the computation differs.

    Raises ConfigError naming every such key with both values.
    """
    free = set(FREE_TO_CHANGE)
    if saved_experiment.get("collapse", {}).get("action") == "hold_beta":
        free -= {"collapse.inactive_share", "train.validate_every_images"}  # beta follows from them
    changed = [
        change
        for key, change in _changes(saved_experiment, as_dict(experiment)).items()
        if key not in free
    ]
    if changed:
        raise ConfigError(
            "the run was started with other settings and cannot be resumed with these: "
            + ", ".join(changed)
            + "; give another --run-dir, or the old settings"
        )


def check_same_policy(saved_policy: dict[str, Any], policy: Policy) -> None:
    """Refuse to resume where the augmentation is another, though its name is the same.

    Raises ConfigError naming every chance that differs with both values.
    """
    changed = _changes(saved_policy, policy.as_dict()).values()
    if changed:
        raise ConfigError(
            "augment.policy: is not what it was when the run was started, which cannot be resumed "
            f"with it: {', '.join(changed)}; give another --run-dir, or the old policy"
        )


def _changes(before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """What differs between two trees, by dotted name, with both values."""
    before, now = flatten(before), flatten(now)
    return {
        key: f"{key} (was {_value(before, key)}, now {_value(now, key)})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    }


def _value(tree: dict[str, Any], key: str) -> str:
    return repr(tree[key]) if key in tree else "not there"


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors, from any device, to one safetensors file; raises OSError."""
    held = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    try:
        # By the format other libraries know whose tensors they are.
        save_file(held, path, {"format": "pt"})
    except SafetensorError as error:  # its way to say that the disk is full, and the like
        raise OSError(str(error)) from error
