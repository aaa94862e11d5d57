"""Figures of the benchmarks as matplotlib objects, so that tests can check the drawn data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock


def draw(plot: Callable[[dict[str, Any], Path], None], record: dict[str, Any], path: Path) -> Any:
    """Draw a record into a file, and return the matplotlib figure."""
    from matplotlib import pyplot

    with mock.patch.object(pyplot, "close") as close:
        plot(record, path)
    assert path.stat().st_size > 0
    (figure,) = (call.args[0] for call in close.call_args_list)
    pyplot.close(figure)
    return figure


def legend(panel: Any) -> dict[str, Any]:
    """Return the drawn lines of a panel by their labels; of an error bar its data line."""
    handles, labels = panel.get_legend_handles_labels()
    lines = [getattr(handle, "lines", [handle])[0] for handle in handles]
    return dict(zip(labels, lines, strict=True))
