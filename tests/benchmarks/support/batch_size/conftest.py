"""Details of a batch-size study for the tests of its advice and its figure."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.support.batch_size import advice


def speed(micro: int, accumulation: int, median: float, option: str = "plain") -> dict[str, Any]:
    """Return an entry of `speed`."""
    row = {"micro": micro, "accumulation": accumulation, "option": option}
    return row | {"q1": 0.9 * median, "median": median, "q3": 1.1 * median}


def peak(micro: int, option: str = "plain", share: float = 1.0) -> dict[str, Any]:
    """Return an entry of `memory`, whose prediction is a tenth too high."""
    size = int(share * (20 + 10 * micro)) * 10**6
    return {
        "micro": micro,
        "option": option,
        "predicted": size,
        "measured": size / 1.1,
        "cuda": 2 * size,
    }


def training(batch: int, images: float | None, rate: float) -> dict[str, Any]:
    """Return an entry of `trainings`."""
    return {
        "batch": batch,
        "rule": "sqrt",
        "lr": 0.001,
        "curve": [[100, 2.0], [200, 1.0], [300, 0.9]],
        "images_per_second": rate,
        "images": images,
        "seconds": None if images is None else images / rate,
    }


@pytest.fixture
def details() -> dict[str, Any]:
    """Return a study in which micro batch 8 and global batch 16 are the smallest good ones."""
    study = {
        "batch": 8,
        "memory": [peak(4), peak(8), peak(16), peak(8, "checkpointing", 0.5)],
        "fits": [{"option": "plain", "gib": 8, "micro": 700}],
        "speed": [
            *(speed(4, 8, 60.0), speed(8, 4, 98.0), speed(16, 2, 100.0)),
            *(speed(8, 1, 90.0), speed(16, 1, 95.0)),
            *(speed(8, 1, 60.0, "checkpointing"), speed(8, 1, 135.0, "bf16")),
        ],
        "options": [
            {"micro": 8, "option": "checkpointing", "q1": 0.6, "median": 0.67, "q3": 0.7},
            {"micro": 8, "option": "bf16", "q1": 1.4, "median": 1.5, "q3": 1.6},
            {"micro": 8, "option": "channels last", "q1": 0.9, "median": 1.06, "q3": 1.1},
        ],
        "target": 1.25,
        "trainings": [training(8, 300, 90.0), training(16, 280, 95.0), training(32, None, 100.0)],
        "noise": [
            {"images": 100, "pages": 10.0, "low": 8, "high": 12, "gradient": 1, "noise": 10},
            {"images": 200, "pages": 40.0, "low": 20, "high": None, "gradient": 1, "noise": 40},
            {"images": 300, "pages": None, "low": 50, "high": None, "gradient": -1, "noise": 40},
        ],
    }
    return study | {"advice": advice.advice(study)}
