"""Checkpoints: written atomically, readable by every engine at any world size.

A checkpoint is a folder, named by its image count:

    weights.safetensors     parameters and buffers by name, fp32
    average.safetensors     EMA of the weights, by name
    optimizer.safetensors   optimizer state as <state>.<parameter name>
    adversary.safetensors   discriminator, its optimizer and controllers; empty without a GAN
    layout.json             only if several ranks wrote it: the ranges of the slices in their files
    state.json              image count, controllers, resolved experiment, augmentation policy
    manifest.json           SHA-256 of each file above

If several ranks wrote it, each file of tensors is replaced by one for each rank, such as
`weights-00001-of-00002.safetensors`, with the rank's slices, flat. Tensors that are not cut are in
the first one. Tensors are safetensors and the rest is JSON, so that nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from shards.atomic_files import atomic_folder, remove_folder, sha256_of, writing
from shards.errors import one_line
from vaetrain.artifacts.tensor_files import (
    Layout,
    TensorFiles,
    check_slices,
    decode_layouts,
    encode_layouts,
    save_tensors,
)
from vaetrain.settings import ConfigError

MANIFEST = "manifest.json"
STATE = "state.json"
LAYOUT = "layout.json"
DRAFTS = ".*.tmp"
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
    """Complete state of a run.

    Attributes:
        images: image count.
        weights, average, optimizer, adversary: tensors by name; see the module. Of a checkpoint on
            disk each tensor is read when it is asked for.
        state: JSON of the controllers, the resolved experiment and the augmentation policy.
    """

    images: int
    weights: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    adversary: Mapping[str, Tensor]
    state: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `folder/<images>` in one process, then remove all but the newest `keep` checkpoints.

    Raises CannotWrite if the disk is full or read-only; older checkpoints are kept then.
    """
    final = path_of(folder, checkpoint.images)
    with writing(final):
        folder.mkdir(parents=True, exist_ok=True)
        remove_drafts(folder)
    with atomic_folder(final) as draft:
        digests = write_part(draft, {part: getattr(checkpoint, part) for part in PARTS})
        write_manifest(draft, {"images": checkpoint.images, **checkpoint.state}, digests)
    remove_old(folder, keep)
    return final


def path_of(folder: Path, images: int) -> Path:
    """Return the path of the checkpoint at an image count."""
    return folder / f"{images:012d}"


def remove_drafts(folder: Path) -> None:
    """Remove what a killed process has left in a folder of checkpoints."""
    for leftover in folder.glob(DRAFTS):
        shutil.rmtree(leftover)


def remove_old(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints; raises CannotWrite."""
    with writing(folder):
        for old in list_checkpoints(folder)[:-keep]:
            remove_folder(old)


def part_file(part: str, number: int = 0, count: int = 1) -> str:
    """Return the name of the number-th of `count` files of a part."""
    infix = "" if count == 1 else f"-{number + 1:05d}-of-{count:05d}"
    return f"{part}{infix}.safetensors"


def write_part(
    draft: Path, tensors: Mapping[str, Mapping[str, Tensor]], number: int = 0, count: int = 1
) -> dict[str, str]:
    """Write the number-th of `count` files of each part; return their SHA-256s by name."""
    digests = {}
    for part in PARTS:
        file = draft / part_file(part, number, count)
        save_tensors(file, tensors[part])
        digests[file.name] = sha256_of(file)
    return digests


def write_manifest(
    draft: Path,
    state: Mapping[str, Any],
    digests: Mapping[str, str],
    layouts: Mapping[str, Layout] | None = None,
) -> None:
    """Write the JSON files of a checkpoint whose other files have these SHA-256s."""
    trees = {STATE: state}
    if layouts is not None:
        trees[LAYOUT] = encode_layouts(layouts)
    own = {}
    for name, tree in trees.items():
        (draft / name).write_text(json.dumps(tree))
        own[name] = sha256_of(draft / name)
    (draft / MANIFEST).write_text(json.dumps(dict(sorted({**digests, **own}.items())), indent=1))


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir())


def load(path: Path) -> Checkpoint:
    """Check a checkpoint against its manifest and open it.

    Raises DamagedCheckpoint naming the file that is missing or differs.
    """
    return open_share(path, 0, 1)


def open_share(path: Path, rank: int, world_size: int) -> Checkpoint:
    """Do the same as `load`, but check only the share of the files that falls to a rank.

    The shares of all ranks are all files. Raises DamagedCheckpoint.
    """
    with _refuse_damage(path):
        digests = json.loads((path / MANIFEST).read_text())
        files = sum(name.startswith(f"{PARTS[0]}-") for name in digests) or 1
        parts = {
            part: [path / part_file(part, number, files) for number in range(files)]
            for part in PARTS
        }
        numbers = {file.name: n for paths in parts.values() for n, file in enumerate(paths)}
        names = [STATE, *([LAYOUT] if files > 1 else []), *numbers]
        # The largest first, so that the shares are nearly equal.
        names.sort(key=lambda name: (path / name).stat().st_size, reverse=True)
        own = names[rank::world_size]
        _check_digests(path, own, digests)
        layouts = {}
        if files > 1:
            layouts = decode_layouts(json.loads((path / LAYOUT).read_text()), files)
        for part, paths in parts.items():
            for file in (file for file in paths if file.name in own):
                check_slices(file, numbers[file.name], layouts.get(part, {}))
        state = json.loads((path / STATE).read_text())
        images = int(state.pop("images"))
        tensors = {p: TensorFiles(paths, layouts.get(p, {})) for p, paths in parts.items()}
    return Checkpoint(images=images, state=state, **tensors)


def _check_digests(path: Path, names: Iterable[str], digests: Mapping[str, str]) -> None:
    for name in names:
        if sha256_of(path / name) != digests[name]:
            raise DamagedCheckpoint(f"{path / name}: SHA-256 differs from {MANIFEST}")


@contextlib.contextmanager
def _refuse_damage(path: Path) -> Iterator[None]:
    """Raise DamagedCheckpoint in one line for any error of reading."""
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{error.filename or path}: is missing") from error
    except DamagedCheckpoint:
        raise
    except (OSError, *READ_ERRORS) as error:
        raise DamagedCheckpoint(one_line(f"{path}: cannot be read ({error})")) from error


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
