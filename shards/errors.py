"""Errors that commands report in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


class UserError(ValueError):
    """Something the user asked for cannot be done; the message is one plain line."""

    def __str__(self) -> str:
        return one_line(super().__str__())


def one_line(text: str) -> str:
    """Text with what a terminal would not print, a line's end too, written as an escape."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


class DamagedShards(ValueError):
    """Shards are not whole, or not to be had; the message is one plain line naming the file."""
