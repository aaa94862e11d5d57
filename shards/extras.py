"""Optional dependencies."""

from __future__ import annotations

import importlib.util

from shards.errors import UserError


def require(module: str, extra: str, purpose: str) -> None:
    """Raise UserError, naming the command that installs it, where a module is missing.

    Args:
        extra: the extra in setup.cfg that brings the module.
        purpose: what needs it.
    """
    if importlib.util.find_spec(module) is None:
        raise UserError(f"{purpose} needs {module}, type: pip install -e '.[{extra}]'")
