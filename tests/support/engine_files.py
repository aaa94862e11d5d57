"""Engine files for tests: those of FSDP2 with small units, and with two copies of the model."""

from __future__ import annotations

from pathlib import Path

from tests.support.paths import REPO

HYBRID, HYBRID_RANKS = "fsdp2_hybrid", 4  # two copies of the model on two ranks each


def engine_ranks(engine: str) -> int:
    """Return the number of ranks in the file of `small_units`."""
    return HYBRID_RANKS if engine == HYBRID else 1 if engine == "single" else 2


def small_units(engine: str, folder: Path, parameters: int) -> Path:
    """Return an engine's file; a copy in a folder for the engines of FSDP2.

    Args:
        parameters: smallest number of parameters of a unit, so that small models have several.
    """
    shipped = REPO / "accelerate_configs" / f"{engine}.yaml"
    if not engine.startswith("fsdp2"):
        return shipped
    text = shipped.read_text()
    for before, after in (
        ("fsdp_min_num_params: 1000000", f"fsdp_min_num_params: {parameters}"),
        ("num_processes: 2", f"num_processes: {engine_ranks(engine)}"),
    ):
        assert before in text
        text = text.replace(before, after)
    own = folder / shipped.name
    own.write_text(text.replace("dp_shard_size: 1", "dp_shard_size: 2"))
    return own
