"""Damaged checkpoints and final models."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from shards.atomic_files import sha256_of
from tests.corpus import TOO_DEEP, BadFile, damaged_copies

# Contents that are not a safetensors file.
NO_TENSORS = {
    "empty": b"",
    "short": b"\0" * 7,
    "endless": struct.pack("<Q", 2**63) + b"{}",
    "no-json": struct.pack("<Q", 4) + b"!!!!",
    "deep": struct.pack("<Q", 2 * TOO_DEEP) + b'{"a":' * (2 * TOO_DEEP // 5),
    "beyond": struct.pack("<Q", 56) + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}} ',
    "pickle": pickle.dumps({"a": [1.0]}),
    "zip": b"PK\x03\x04" + b"\0" * 100,
}
# Contents that are not a state or settings.
NO_STATE = (b"", b"[]", b"5", b'"text"', b"null", b"{}", b"{", b"\xff", b"[" * TOO_DEEP)


def write_manifest(checkpoint: Path) -> None:
    """Write a manifest with the right checksums of a checkpoint's files."""
    files = (path for path in checkpoint.iterdir() if path.name != "manifest.json")
    digests = {path.name: sha256_of(path) for path in files}
    (checkpoint / "manifest.json").write_text(json.dumps(digests))


def write_bad_checkpoints(folder: Path, whole: Path) -> Iterator[BadFile]:
    """Yield copies of the checkpoint `whole`, each with one fault."""

    def copied(name: str) -> Path:
        return shutil.copytree(whole, folder / name)

    for path in sorted(whole.iterdir()):
        for damage, data in damaged_copies(path.read_bytes(), 3):
            copy = copied(f"{path.stem}-{damage}")
            (copy / path.name).write_bytes(data)
            yield BadFile(copy, copy.name)
        copy = copied(f"{path.stem}-missing")
        (copy / path.name).unlink()
        yield BadFile(copy, copy.name)
        copy = copied(f"{path.stem}-folder")
        (copy / path.name).unlink()
        (copy / path.name).mkdir()
        yield BadFile(copy, copy.name)
    for name, data in NO_TENSORS.items():
        copy = copied(f"vouched-{name}")
        (copy / "average.safetensors").write_bytes(data)
        write_manifest(copy)
        yield BadFile(copy, copy.name)
    for number, data in enumerate((*NO_STATE, b'{"images": "x"}', b'{"images": null}')):
        copy = copied(f"vouched-state-{number}")
        (copy / "state.json").write_bytes(data)
        write_manifest(copy)
        yield BadFile(copy, copy.name)


def write_bad_models(folder: Path, whole: Path) -> Iterator[BadFile]:
    """Yield copies of the final model `whole`, each with one fault."""

    def copied(name: str, file: str, data: bytes) -> BadFile:
        copy = shutil.copytree(whole, folder / name)
        (copy / file).write_bytes(data)
        return BadFile(copy, name)

    for number, data in enumerate(NO_STATE):
        yield copied(f"config-{number}", "config.json", data)
    config = json.loads((whole / "config.json").read_text())
    trees: dict[str, Any] = {"list": [], "text": "name: x", "null": None, "unknown": {"a": 1}}
    trees |= {"section": {"data": 5}, "width": {"data": {"width": 32}}, "deep": {}}
    # The layers of these sizes would take terabytes.
    trees["huge"] = {"data": {"width": 8192, "max_height": 32767}, "model": {"latent_dim": 10**9}}
    for _ in range(900):
        trees["deep"] = {"a": trees["deep"]}
    for name, tree in trees.items():
        text = json.dumps({**config, "experiment": tree}).encode()
        yield copied(f"settings-{name}", "config.json", text)
    for name, data in NO_TENSORS.items():
        yield copied(f"weights-{name}", "model.safetensors", data)
    weights = load_file(whole / "model.safetensors")
    first = next(name for name, value in weights.items() if value.ndim > 1)
    for name, value in {
        "missing": None,
        "flat": weights[first].flatten().contiguous(),
        "none": torch.zeros(0),
    }.items():
        changed = {key: tensor for key, tensor in weights.items() if key != first}
        changed |= {} if value is None else {first: value}
        bad = copied(f"tensors-{name}", "model.safetensors", b"")
        save_file(changed, bad.path / "model.safetensors")
        yield bad
