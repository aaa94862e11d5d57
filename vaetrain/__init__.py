"""Trainer of VAEs of wireframes, on one device or many."""

from typing import Any

__all__ = ["load_model"]


def __getattr__(name: str) -> Any:
    # Imported on first use: torch takes seconds, and `--help` must not wait for it.
    if name in __all__:
        from vaetrain.artifacts import final_model

        return getattr(final_model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
