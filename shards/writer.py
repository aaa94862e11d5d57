"""Samples to tars and an index, the same bytes for the same samples."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import webdataset

from shards.command import UserError
from shards.index import BLOCK, HEADER_NAME, RECORD, TABLE_NAME, sha256_of

MAX_SHARDS = 1 << 16  # the index numbers them in two bytes
MAX_BLOCKS = (1 << 16) - 1  # of one sample


@dataclass(frozen=True)
class Row:
    """What the index says of a sample besides where it lies."""

    width: int
    height: int
    boxes: int
    label: str
    template: str


def unique_keys(ids: Iterable[str]) -> list[str]:
    """Keys that any WebDataset reader takes, at most 80 characters, from ids in order."""
    keys: list[str] = []
    used: set[str] = set()
    for name in ids:
        # A dot would end the key, and a slash make it a folder.
        base = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:70].strip("-") or "page"
        key, number = base, 1
        while key in used:
            number += 1
            key = f"{base}-{number}"
        used.add(key)
        keys.append(key)
    return keys


class ShardWriter:
    """Writes the tars of both splits, then the table and the header, into one folder."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self.folder = folder
        self.shard_bytes = shard_bytes
        self.shards: list[dict[str, Any]] = []
        self.places: list[tuple[int, int, int]] = []
        self.rows: list[Row] = []

    def write_split(self, split: str, samples: Iterable[tuple[str, Row, dict[str, bytes]]]) -> None:
        """Write samples - key, row, members by extension - to shards of about equal size.

        Raises UserError where the index could not hold them.
        """
        tar = None
        for key, row, members in samples:
            if tar is None:
                number = sum(shard["split"] == split for shard in self.shards)
                path = self.folder / f"{split}-{number:06d}.tar"
                stream = path.open("wb")
                # Fixed owners and times: the same samples give the same bytes.
                tar = webdataset.TarWriter(
                    stream, user="root", group="root", mtime=0, encoder=False
                )
                self.shards.append({"name": path.name, "split": split, "samples": 0})
            start = tar.tarstream.offset
            tar.write({"__key__": key, **members})
            end = tar.tarstream.offset
            if (end - start) // BLOCK > MAX_BLOCKS:
                raise UserError(f"{key}: needs {end - start} bytes, more than a sample may have")
            self.places.append((len(self.shards) - 1, start // BLOCK, (end - start) // BLOCK))
            self.rows.append(row)
            self.shards[-1]["samples"] += 1
            if end >= self.shard_bytes:
                self._finish(tar, stream)
                tar = None
        if tar is not None:
            self._finish(tar, stream)
        if len(self.shards) > MAX_SHARDS:
            raise UserError(f"--shard-mb: {len(self.shards)} shards, at most {MAX_SHARDS} can be")

    def _finish(self, tar: webdataset.TarWriter, stream: Any) -> None:
        tar.close()
        stream.flush()
        os.fsync(stream.fileno())
        stream.close()
        path = self.folder / self.shards[-1]["name"]
        self.shards[-1] |= {"bytes": path.stat().st_size, "sha256": sha256_of(path)}

    def write_index(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Write the table and the header; `facts` go into the header as they are.

        Returns: the header.
        """
        labels = sorted({row.label for row in self.rows})
        templates = sorted({row.template for row in self.rows})
        label_number = {name: number for number, name in enumerate(labels)}
        template_number = {name: number for number, name in enumerate(templates)}
        if len(labels) > 1 << 16:
            raise UserError(f"{len(labels)} labels, at most {1 << 16} can be")
        records = [
            (
                *place,
                row.width,
                row.height,
                row.boxes,
                label_number[row.label],
                template_number[row.template],
            )
            for place, row in zip(self.places, self.rows, strict=True)
        ]
        table = np.array(records, RECORD).tobytes()
        (self.folder / TABLE_NAME).write_bytes(table)
        header = {
            **facts,
            "samples": len(self.rows),
            "table_sha256": hashlib.sha256(table).hexdigest(),
            "shards": self.shards,
            "labels": labels,
            "templates": templates,
        }
        (self.folder / HEADER_NAME).write_text(json.dumps(header, indent=1) + "\n")
        return header


def write_lines(path: Path, items: Iterable[Any]) -> None:
    """Dataclass instances as JSON lines, fields that are None left out."""
    with path.open("w") as stream:
        for item in items:
            told = {key: value for key, value in asdict(item).items() if value is not None}
            stream.write(json.dumps(told) + "\n")
