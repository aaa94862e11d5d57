"""Helpers of the commands: one-line errors, exit statuses, progress bars."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from shards.errors import DamagedShards, ReaderFailed, UserError, one_line, plain_os_error
from shards.location import parse_location


class Parser(argparse.ArgumentParser):
    """Argument parser that prints errors as one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def location(text: str) -> str | Path:
    """Convert an argument to a folder of shards as a path, or to an address as text."""
    try:
        return parse_location(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(name: str, command: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its status; 2 for a user error, 1 for an error in files.

    SIGTERM is handled as Ctrl-C, so that unfinished files are removed.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A label with characters that the terminal cannot encode must not end the command.
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.exit(command())
    except UserError as error:
        sys.exit(_report(name, str(error), 2))
    except DamagedShards as error:
        sys.exit(_report(name, str(error), 1))
    except ReaderFailed as error:
        _report(name, str(error), 1)
        sys.stdout.flush()
        os._exit(1)  # Python's own exit would wait for reader processes that hang
    except OSError as error:
        sys.exit(_report(name, plain_os_error(error), 1))
    except KeyboardInterrupt:
        sys.exit(_report(name, "interrupted", 130))


def _report(name: str, message: str, status: int) -> int:
    print(f"{name}: {one_line(message)}", file=sys.stderr)
    return status


def print_line(message: str) -> None:
    """Print a line and flush; ignore a full disk and a closed pipe."""
    with contextlib.suppress(OSError):
        print(message, flush=True)


def progress(items: Iterable | None = None, **settings):
    """Return a progress bar of tqdm on stderr; if that is no terminal, lines, see `ProgressLines`.

    Of several ranks, only the main process shows it.
    """
    from tqdm import tqdm

    from shards.progress import ProgressLines

    kind = tqdm if sys.stderr.isatty() else ProgressLines
    return kind(items, disable=os.environ.get("RANK", "0") != "0", **settings)
