"""Changed copies of nested records."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any


def with_value(record: dict[str, Any], path: Sequence[str | int], value: object) -> dict[str, Any]:
    """Return a deep copy of a record with the value at a path of keys replaced."""
    changed = copy.deepcopy(record)
    parent: Any = changed
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return changed
