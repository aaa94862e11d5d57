"""Arguments and exits that several commands share; torch is not imported."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


def output_file(text: str) -> Path:
    """Parse the path of a file to write; refuse it at once if its folder does not exist."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: there is no folder {path.parent}; create it")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: is a folder; name a file")
    return path


def output_folder(text: str) -> str:
    """Parse the path of a folder to write to, which is created if it does not exist."""
    if Path(text).exists() and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text}: is a file; name a folder")
    return text


def picture_or_folder(text: str) -> str:
    """Parse the path of a picture to write, or of a folder, see `is_folder`."""
    return output_folder(text) if is_folder(text) else str(output_file(text))


def is_folder(path: str) -> bool:
    """Return whether a path to write to is a folder: it ends with a slash, or there is one."""
    return path.endswith("/") or Path(path).is_dir()


def add_layout_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that make pages: files of the boxes found in them."""
    parser.add_argument(
        "--layouts",
        type=output_file,
        metavar="FILE.jsonl",
        help="find the boxes of every page and write one layout a line (compact schema)",
    )
    parser.add_argument(
        "--svg", type=output_folder, metavar="DIR", help="write the boxes of every page as SVG"
    )


def whole(minimum: int, maximum: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `minimum` to `maximum`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or not minimum <= number <= maximum:
            raise argparse.ArgumentTypeError(
                f"is {text}, must be a whole number in {minimum}..{maximum}"
            )
        return number

    return parse


def print_error(message: str) -> None:
    """Print an error in one line to stderr, as every command does."""
    print(f"error: {message}", file=sys.stderr, flush=True)


def fail(message: str) -> NoReturn:
    """Exit at once with status 1; this rank prints the error in one line.

    For errors that only one rank has seen. The other ranks may wait for it in a collective, and
    Python's own exit would wait for that collective, too. The launcher ends the other ranks.
    """
    print_error(f"rank {os.environ.get('RANK', '0')}: {message}")
    os._exit(1)
