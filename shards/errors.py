"""Errors that commands report in one line."""

from __future__ import annotations


class UserError(ValueError):
    """A request that cannot be fulfilled; the message is one plain line."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class DamagedShards(ValueError):
    """Shards that are damaged or cannot be fetched; the message is one line that names the file."""


_JOINERS = "\u200c\u200d"  # part of Persian words and of emoji; they change no other character


def one_line(text: str) -> str:
    """Return the text with unprintable characters written as escapes.

    Line ends, and characters that change the direction of a text, are among them.
    """
    return "".join(
        letter if letter.isprintable() or letter in _JOINERS else ascii(letter)[1:-1]
        for letter in text
    )
