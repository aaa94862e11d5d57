"""Engine files for tests: those of FSDP2, with small units."""

from __future__ import annotations

from pathlib import Path

from tests.support.paths import REPO


def small_units(engine: str, folder: Path, parameters: int) -> Path:
    """Return an engine's file; a copy in a folder for the engines of FSDP2.

    Args:
        parameters: smallest number of parameters of a unit, so that small models have several.
    """
    shipped = REPO / "accelerate_configs" / f"{engine}.yaml"
    if not engine.startswith("fsdp2"):
        return shipped
    text, before = shipped.read_text(), "fsdp_min_num_params: 1000000"
    assert before in text
    own = folder / shipped.name
    own.write_text(text.replace(before, f"fsdp_min_num_params: {parameters}"))
    return own
