"""Progress of long commands on stderr: a bar in a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

from tqdm import tqdm

SECONDS = 30  # between two lines


class ProgressLines(tqdm):
    """Bar of tqdm that prints a line every `SECONDS` instead, for log files and pipes.

    A loop that takes less time prints nothing.
    """

    monitor_interval = 0  # no thread: the lines need not be on time

    def __init__(self, *arguments, **settings) -> None:
        super().__init__(
            *arguments,
            **settings,
            file=sys.stderr,
            mininterval=SECONDS,
            miniters=1,
            delay=SECONDS,
        )

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        """Set the text without the line that tqdm would print at once."""
        super().set_postfix_str(s, refresh=False)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print the line; a full disk or a closed pipe is ignored."""
        with contextlib.suppress(OSError):
            print(self._line(), file=sys.stderr, flush=True)

    def _line(self) -> str:
        passed, done = self.format_dict["elapsed"], self.n - self.initial
        line = f"{self.desc}: " if self.desc else ""
        line += f"{self.n} of {self.total}" if self.total else f"{self.n} {self.unit}s"
        line += f", {self.format_interval(passed)} passed"
        if self.total and done > 0:
            left = passed * max(0, self.total - self.n) / done
            line += f", {self.format_interval(left)} left"
        return line

    def close(self) -> None:
        """Print the last line if there was one before."""
        if self.disable:
            return
        self.disable = True
        self._decr_instances(self)
        if self.last_print_t > self.start_t and self.n > self.last_print_n:
            self.display()


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Print the name of a stage, and every `SECONDS` for how long it has run."""
    with contextlib.suppress(OSError):
        print(name, flush=True)
    ended = threading.Event()
    thread = threading.Thread(target=_report, args=(name, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _report(name: str, ended: threading.Event) -> None:
    start = time.monotonic()
    while not ended.wait(SECONDS):
        with contextlib.suppress(OSError):
            passed = round(time.monotonic() - start)
            print(f"{name}: {passed} s passed", file=sys.stderr, flush=True)
