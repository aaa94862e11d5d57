"""A key-value store in this process, with the methods of torch's that the heartbeat uses."""

from __future__ import annotations


class MemoryStore:
    """Keys and values of all ranks; every request is answered at once."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def set(self, key: str, value: str) -> None:
        """Set a value."""
        self._values[key] = value.encode()

    def check(self, keys: list[str]) -> bool:
        """Return whether all keys have a value."""
        return all(key in self._values for key in keys)

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """Return the values of keys that have one; torch's store would wait for others."""
        return [self._values[key] for key in keys]

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        """Set a value if it is the expected one, or if there is none; return the value."""
        if self._values.get(key, b"") == expected.encode():
            self._values[key] = desired.encode()
        return self._values[key]

    def add(self, key: str, amount: int) -> int:
        """Add to a number, and return it."""
        self._values[key] = str(int(self._values.get(key, b"0")) + amount).encode()
        return int(self._values[key])
