"""Setups of a training step that the batch-size study compares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vaetrain.config.experiment import Experiment

PLAIN = "plain"
OPTIONS: dict[str, dict[str, Any]] = {
    PLAIN: {
        "precision": "no",
        "channels_last": False,
        "checkpoint_activations": False,
        "compile": False,
    },
    "bf16": {"precision": "bf16"},
    "channels last": {"channels_last": True},
    "checkpointing": {"checkpoint_activations": True},
    "compile": {"compile": True},
}


@dataclass(frozen=True)
class Setup:
    """Micro batch size, number of accumulation steps, and an option of `OPTIONS`."""

    micro: int
    accumulation: int
    option: str = PLAIN

    @property
    def name(self) -> str:
        """Name in tables, such as "8 x 4, bf16"."""
        return f"{self.micro} x {self.accumulation}, {self.option}"


def with_option(experiment: Experiment, option: str) -> Experiment:
    """Return the experiment with one of `OPTIONS`, all others switched off."""
    settings = OPTIONS[PLAIN] | OPTIONS[option]
    return replace(experiment, train=replace(experiment.train, **settings))
