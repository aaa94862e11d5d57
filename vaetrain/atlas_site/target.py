"""The folder of an atlas, recognised by the file that names what it was built of."""

from __future__ import annotations

from pathlib import Path

from shards.errors import UserError

STAMP = "built.json"


def check_target(out: Path) -> None:
    """Raise UserError if a folder is not empty and is no atlas."""
    if not out.exists() or (out / STAMP).is_file():
        return
    if not out.is_dir() or any(out.iterdir()):
        raise UserError(f"{out}: exists and is no atlas; name another folder with --out")
