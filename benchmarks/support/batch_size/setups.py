"""The ways to take a training step that a batch-size study compares."""

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
    """A way to take a step: pages at once, how often before the optimizer steps, and an option."""

    micro: int
    accumulation: int
    option: str = PLAIN

    @property
    def name(self) -> str:
        """The setup in a table."""
        return f"{self.micro} x {self.accumulation}, {self.option}"


def with_option(experiment: Experiment, option: str) -> Experiment:
    """The experiment with one of `OPTIONS` and none of the others."""
    settings = OPTIONS[PLAIN] | OPTIONS[option]
    return replace(experiment, train=replace(experiment.train, **settings))
