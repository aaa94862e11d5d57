"""Arguments that several commands take, checked before torch is imported."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


def output_file(text: str) -> Path:
    """A file to write; refused at once where it could not be written when all work is done."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: there is no folder {path.parent}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: is a folder")
    return path


def whole(least: int, most: int) -> Callable[[str], int]:
    """A whole number from `least` to `most`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or not least <= number <= most:
            raise argparse.ArgumentTypeError(
                f"is {text}, must be a whole number in {least}..{most}"
            )
        return number

    return parse


def refuse(message: str) -> NoReturn:
    """Leave with exit status 2, the main process saying why in one line."""
    if os.environ.get("RANK", "0") == "0":
        print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(2)


def fail(message: str) -> NoReturn:
    """Leave at once with exit status 1, this rank saying why in one line.

    For what only one rank has seen: its peers may be waiting for it in a collective, which the
    interpreter's own exit would wait for in turn; the launcher ends them.
    """
    print(f"error: rank {os.environ.get('RANK', '0')}: {message}", file=sys.stderr, flush=True)
    os._exit(1)
