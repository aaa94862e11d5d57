"""Record of the loss weights at one time.

`vaetrain.schedules.weights_at` computes them for an epoch; `TrainingState.weights_at` then applies
the beta controller and the cap on beta.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vaetrain.losses.config import ObjectiveSettings
from vaetrain.losses.terms import TERMS, LossTerm

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Weights:
    """Weights of all parts of the objective.

    Attributes:
        terms: weights of the loss terms by name; 0 for a term that is left out.
        beta: weight of the KL: a number, or a scalar on the device if a controller sets it.
        levels: factor of beta for a ladder's levels.
        capacity: target of the KL in nats; None: 0.
    """

    terms: Mapping[str, float]
    beta: float | Tensor = 0.0
    levels: float = 1.0
    capacity: float | None = None


def terms_in_use(experiment: ObjectiveSettings) -> tuple[LossTerm, ...]:
    """Return the loss terms whose weight is above 0 at any time of the training."""
    sources = (experiment.loss, *experiment.curriculum.phases)
    return tuple(term for term in TERMS if any(getattr(source, term.name) for source in sources))
