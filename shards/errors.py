"""Errors that commands report in one line."""

from __future__ import annotations


class UserError(ValueError):
    """A request that cannot be fulfilled; the message is one plain line."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class DamagedShards(ValueError):
    """Shards that are damaged or cannot be fetched; the message is one line that names the file."""


def one_line(text: str) -> str:
    """Return the text with unprintable characters, line ends included, written as escapes."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
