"""Checkpoints: written atomically, readable by every engine at any world size.

A checkpoint is a folder, named by its image count:

    weights.safetensors     parameters and buffers by name, fp32
    average.safetensors     EMA of the weights, by name
    optimizer.safetensors   optimizer state as <state>.<parameter name>
    adversary.safetensors   discriminator, its optimizer and controllers; empty without a GAN
    state.json              image count, controllers, resolved experiment, augmentation policy
    manifest.json           SHA-256 of each file above

Tensors are safetensors and the rest is JSON, so that nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from shards.atomic_files import atomic_folder, remove_folder, sha256_of, writing
from shards.errors import one_line
from vaetrain.augmentation.policy import Policy
from vaetrain.config.experiment import Experiment, as_dict
from vaetrain.settings import ConfigError, flatten

MANIFEST = "manifest.json"
STATE = "state.json"
# Raised by reading a file with unexpected JSON or tensors.
READ_ERRORS = (ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError)
PARTS = ("weights", "average", "optimizer", "adversary")

# Entries that a training writes to `state.json`, beside the image count.
STATE_KEYS = {"experiment", "policy", "data", "meter", "collapse", "controllers", "best"}

# Settings that may change when a run is resumed: they do not change what it computes.
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
    "train.deterministic",
    "train.tf32",
    "train.log_every_images",
    "train.validate_every_images",
    "train.checkpoint_every_images",
    "train.keep_checkpoints",
    "train.max_skipped_steps",
    "train.timeout_seconds",
    "train.on_failed_save",
}

_WRITTEN_BY_ANOTHER_VERSION = (
    "the run's checkpoint has no entry {}: it was written by another version of this program; "
    "give another --run-dir"
)


class DamagedCheckpoint(ValueError):
    """A checkpoint is missing a file or differs from its manifest; the message is one line."""


@dataclass
class Checkpoint:
    """Complete state of a run, in host memory.

    Attributes:
        images: image count.
        weights, average, optimizer, adversary: tensors by name; see the module.
        state: JSON of the controllers, the resolved experiment and the augmentation policy.
    """

    images: int
    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    adversary: dict[str, Tensor]
    state: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `folder/<images>` atomically, then remove all but the newest `keep` checkpoints.

    Raises CannotWrite if the disk is full or read-only; older checkpoints are kept then.
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
        for old in list_checkpoints(folder)[:-keep]:
            remove_folder(old)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir())


def load(path: Path) -> Checkpoint:
    """Read a checkpoint and check it against its manifest.

    Raises DamagedCheckpoint naming the file that is missing or differs.
    """
    try:
        digests = json.loads((path / MANIFEST).read_text())
        for name in (*(f"{part}.safetensors" for part in PARTS), STATE):
            if sha256_of(path / name) != digests[name]:
                raise DamagedCheckpoint(f"{path / name}: SHA-256 differs from {MANIFEST}")
        state = json.loads((path / STATE).read_text())
        images = int(state.pop("images"))
        tensors = {part: load_file(path / f"{part}.safetensors") for part in PARTS}
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{error.filename}: is missing") from error
    except DamagedCheckpoint:
        raise
    except (OSError, *READ_ERRORS) as error:
        raise DamagedCheckpoint(one_line(f"{path}: cannot be read ({error})")) from error
    return Checkpoint(images=images, state=state, **tensors)


def check_same_run(
    saved: Checkpoint,
    experiment: Experiment,
    policy: Policy,
    fingerprint: str,
    automatic: Collection[str] = (),
) -> None:
    """Raise ConfigError if the experiment would not continue the run of a checkpoint.

    Args:
        fingerprint: of the current data.
        automatic: settings that `auto` has chosen.
    """
    check_complete(saved.state)
    check_same_experiment(saved.state["experiment"], experiment, automatic)
    check_same_policy(saved.state["policy"], policy)
    if saved.state["data"] != fingerprint:
        raise ConfigError(
            f"{experiment.data.folder}: not the data that the run was started with; give that data "
            "or another --run-dir"
        )


def check_complete(state: dict[str, Any]) -> None:
    """Raise ConfigError if a state lacks one of `STATE_KEYS`."""
    missing = STATE_KEYS - state.keys()
    if missing:
        raise ConfigError(_WRITTEN_BY_ANOTHER_VERSION.format(", ".join(sorted(missing))))


@contextlib.contextmanager
def refuse_other_versions() -> Iterator[None]:
    """Raise ConfigError in place of the KeyError of code that resumes from an incomplete state."""
    try:
        yield
    except KeyError as error:
        raise ConfigError(_WRITTEN_BY_ANOTHER_VERSION.format(error)) from error


def check_same_experiment(
    saved_experiment: dict[str, Any], experiment: Experiment, automatic: Collection[str] = ()
) -> None:
    """Raise ConfigError if a setting that changes the computation differs.

    The message names every such key with both values.

    Args:
        automatic: settings that `auto` has chosen. They may not change silently with the device;
            those in `FREE_TO_CHANGE` may still be changed by an explicit value.
    """
    free = FREE_TO_CHANGE - set(automatic)
    if saved_experiment.get("collapse", {}).get("action") == "hold_beta":
        free -= {"collapse.inactive_share", "train.validate_every_images"}  # they decide beta
    changed = [
        change
        for key, change in _changes(saved_experiment, as_dict(experiment)).items()
        if key not in free
    ]
    if changed:
        of_auto = f" (auto chose {', '.join(automatic)} for this device)" if automatic else ""
        raise ConfigError(
            "the run was started with other settings and cannot be resumed with these: "
            + ", ".join(changed)
            + f"{of_auto}; give the old settings, or another --run-dir"
        )


def check_same_policy(saved_policy: dict[str, Any], policy: Policy) -> None:
    """Raise ConfigError if the augmentation policy differs, even under the same name.

    The message names every probability and magnitude that differs with both values.
    """
    changed = _changes(saved_policy, policy.as_dict()).values()
    if changed:
        raise ConfigError(
            "augment.policy: the run was started with another policy and cannot be resumed with "
            f"this one: {', '.join(changed)}; give the old policy, or another --run-dir"
        )


def _changes(before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """Return the entries that differ between two trees, by dotted name, with both values."""
    before, now = flatten(before), flatten(now)
    return {
        key: f"{key} (was {_value(before, key)}, now {_value(now, key)})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    }


def _value(tree: dict[str, Any], key: str) -> str:
    return repr(tree[key]) if key in tree else "absent"


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors of any device to one safetensors file; raises OSError."""
    on_host = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    try:
        # Other libraries read from "format" that the tensors are PyTorch's.
        save_file(on_host, path, {"format": "pt"})
    except SafetensorError as error:  # raised for a full disk as well
        raise OSError(str(error)) from error
