"""Errors that commands report in one line."""

from __future__ import annotations

import errno

OPEN_FILES = "raise the limit on open files (ulimit -n)"
# What to do about errors of the operating system that no file is to blame for.
REMEDIES = {
    errno.EMFILE: OPEN_FILES,
    errno.ENFILE: "this machine has too many open files; close other programs",
    errno.ENOMEM: "free some memory",
    errno.EAGAIN: "raise the limit on processes (ulimit -u; in a container, its pids limit)",
    errno.ENOSPC: "free some space",
}


class UserError(ValueError):
    """A request that cannot be fulfilled; the message is one plain line."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class DamagedShards(ValueError):
    """Shards that are damaged or cannot be fetched; the message is one line that names the file."""


class ReaderFailed(RuntimeError):
    """Reader processes that cannot be started, died or hang; the message is one line."""


def plain_os_error(error: OSError) -> str:
    """Return an error of the operating system in one line, with the remedy where it is known."""
    text = error.strerror or str(error) or type(error).__name__
    if error.filename is not None:
        text = f"{error.filename}: {text}"
    remedy = REMEDIES.get(error.errno)
    return one_line(f"{text}; {remedy}" if remedy else text)


_JOINERS = "\u200c\u200d"  # part of Persian words and of emoji; they change no other character


def one_line(text: str) -> str:
    """Return the text with unprintable characters written as escapes.

    Line ends, and characters that change the direction of a text, are among them.
    """
    return "".join(
        letter if letter.isprintable() or letter in _JOINERS else ascii(letter)[1:-1]
        for letter in text
    )
