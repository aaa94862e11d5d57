"""Optional dependencies."""

from __future__ import annotations

import importlib.util

from shards.errors import UserError


def require(module: str, extra: str, purpose: str) -> None:
    """Raise UserError with the install command if a module is missing.

    Args:
        extra: extra in setup.cfg that installs the module.
        purpose: feature that needs the module, for the message.
    """
    if importlib.util.find_spec(module) is None:
        raise UserError(f"{purpose} needs {module}; install it with: pip install -e '.[{extra}]'")
