"""Settings of the experiment trackers."""

from __future__ import annotations

from dataclasses import dataclass

from vaetrain.settings import setting
from vaetrain.trackers.registry import TRACKERS


@dataclass
class TrackerConfig:
    use: str = setting(
        "tensorboard",
        "experiment trackers, in addition to metrics.jsonl; tracker=NAMES is short for it",
        choices=(*TRACKERS, "none"),
        several=True,
        is_main=True,
    )
    experiment: str = setting("vaetrain", "experiment in MLflow, and project in Weights & Biases")
