"""Arguments that several commands take, checked before torch is imported."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


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
