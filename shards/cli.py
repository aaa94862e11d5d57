"""What the commands of this package share: one-line errors, exit statuses, progress bars."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from shards.errors import DamagedShards, UserError, one_line


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def location(text: str) -> str | Path:
    """An argument that is a folder of shards, or its address, which stays text."""
    # Imported only here: it knows of UserError.
    from shards.location import parse_location

    try:
        return parse_location(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(name: str, command: Callable[[], int]) -> NoReturn:
    """Run a command and leave with its status; 2 for a user's mistake, 1 if files fail it.

    SIGTERM ends it as Ctrl-C does, so that what it has begun is tidied away.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A label in a script the terminal cannot show must not end the command.
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.exit(command())
    except UserError as error:
        sys.exit(_report(name, str(error), 2))
    except DamagedShards as error:
        sys.exit(_report(name, str(error), 1))
    except OSError as error:
        sys.exit(_report(name, f"{error.filename or 'files'}: {error.strerror or error}", 1))
    except KeyboardInterrupt:
        sys.exit(_report(name, "interrupted", 130))


def _report(name: str, message: str, status: int) -> int:
    print(f"{name}: {one_line(message)}", file=sys.stderr)
    return status


def print_line(message: str) -> None:
    """Print a line at once; that its disk is full, or that nobody reads it, ends nothing."""
    with contextlib.suppress(OSError):
        print(message, flush=True)


def progress(items: Iterable | None = None, **settings):
    """A tqdm progress bar on stderr; none where stderr is not a terminal."""
    from tqdm import tqdm

    return tqdm(items, disable=not sys.stderr.isatty(), **settings)
