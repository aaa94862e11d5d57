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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from shards.atomic_files import atomic_folder, remove_folder, sha256_of, writing
from shards.errors import one_line
from vaetrain.settings import ConfigError

MANIFEST = "manifest.json"
STATE = "state.json"
# Raised by reading a file with unexpected JSON or tensors.
READ_ERRORS = (ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError)
PARTS = ("weights", "average", "optimizer", "adversary")

# Entries that a training writes to `state.json`, beside the image count.
STATE_KEYS = {"experiment", "policy", "data", "meter", "collapse", "controllers", "best"}


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


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors of any device to one safetensors file; raises OSError."""
    on_host = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    try:
        # Other libraries read from "format" that the tensors are PyTorch's.
        save_file(on_host, path, {"format": "pt"})
    except SafetensorError as error:  # raised for a full disk as well
        raise OSError(str(error)) from error
