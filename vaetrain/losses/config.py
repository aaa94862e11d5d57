"""Settings of the losses, of beta and of the curriculum.

The fields of the loss terms' weights follow from `losses.terms`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from vaetrain.losses.backbones import BACKBONES
from vaetrain.losses.terms import PIXEL_LOSSES, TERMS, LossTerm
from vaetrain.settings import setting


def with_term_fields(base: type, kind: str, declare: Callable[[LossTerm], Any]) -> type:
    """Extend a section by one field for each loss term.

    A dataclass lists its base's fields first, so a section with further fields derives from the
    result, and its fields keep the order in which they are written here.

    Args:
        kind: annotation of the fields.
        declare: returns the `setting` of a term.
    """
    fields = [(term.name, kind, declare(term)) for term in TERMS]
    return dataclasses.make_dataclass(f"{base.__name__}WithTerms", fields, bases=(base,))


@dataclass
class _LossConfig:
    pixel: str = setting(
        "l1", "reconstruction loss, mean over a page's pixels", choices=tuple(PIXEL_LOSSES)
    )


def _weight(term: LossTerm) -> Any:
    return setting(term.weight, term.meaning, minimum=0)


@dataclass
class LossConfig(with_term_fields(_LossConfig, "float", _weight)):
    perceptual_net: str = setting(
        "features",
        "frozen network of the perceptual loss: a page encoder, or a backbone of LPIPS",
        choices=("features", *BACKBONES),
    )
    perceptual_weights: str | None = setting(
        None,
        "weights of perceptual_net. features: a run directory, null: random weights; LPIPS: the "
        "backbone's file, null: the file in torch's cache",
    )
    combine: str = setting(
        "fixed",
        "fixed: loss terms are weighted by their settings; learned: each is also divided by a "
        "learned variance (the KL is not)",
        choices=("fixed", "learned"),
    )

    @property
    def on_logits(self) -> bool:
        """Whether the pixel loss is computed from logits."""
        return PIXEL_LOSSES[self.pixel].output != "linear"


@dataclass
class BetaConfig:
    schedule: str = setting(
        "linear",
        "schedule of beta. constant; linear: from 0; two_stage: linear to half of beta.max, then "
        "exponentially towards beta.max; cyclical; controller: holds the KL at target_kl",
        choices=("constant", "linear", "two_stage", "cyclical", "controller"),
    )
    max: float = setting(1.0, "maximum of beta", minimum=0)
    warmup_epochs: float = setting(
        10.0, "linear: epochs from beta 0 to beta.max; two_stage: to half of beta.max", minimum=0
    )
    cycles: int = setting(4, "cyclical: number of cycles in the training", minimum=1)
    cycle_ramp: float = setting(
        0.5, "cyclical: share of a cycle in which beta rises", above=0, maximum=1
    )
    target_kl: float = setting(100.0, "controller: target of the KL, in nats per page", minimum=0)
    proportional: float = setting(0.01, "controller: gain on the last step's KL", minimum=0)
    integral: float = setting(0.0001, "controller: gain on the sum over all steps", minimum=0)
    reduction: str = setting(
        "pixel",
        "reduction of a page's KL in nats that beta multiplies: sum or mean over the latent's "
        "dimensions; pixel: the sum divided by the page's pixels (beta 1 is then the bound "
        "itself, per pixel)",
        choices=("sum", "mean", "pixel"),
    )
    free_bits: float = setting(
        0.0, "minimum KL of each page and latent dimension in the loss, in nats", minimum=0
    )
    levels: float = setting(
        0.03,
        "beta of a ladder's levels (model.skips=hierarchical), as a factor of beta",
        minimum=0,
    )
    levels_warmup_epochs: float = setting(
        5.0, "epochs of the linear rise of that factor from 0", minimum=0
    )
    capacity: float | None = setting(
        None, "target of the KL in nats per page, approached from either side; null: off", minimum=0
    )
    capacity_epochs: float = setting(10.0, "epochs of the capacity's linear rise from 0", minimum=0)


@dataclass
class _Phase:
    epoch: float = setting(0.0, "epoch at which the phase begins", minimum=0)


def _new_weight(term: LossTerm) -> Any:
    return setting(None, f"loss.{term.name} from this epoch on", minimum=0)


@dataclass
class Phase(with_term_fields(_Phase, "float | None", _new_weight)):
    beta: float | None = setting(None, "beta.max from this epoch on", minimum=0)


@dataclass
class CurriculumConfig:
    phases: list[Phase] = setting(
        [],
        "weights that change by epoch: a list of {epoch, and any of "
        + ", ".join(term.name for term in TERMS)
        + ", beta}; a weight that a phase leaves out is kept",
    )
    blend_epochs: float = setting(
        0.0,
        "epochs of linear interpolation from one phase's weights to the next's; 0: at once",
        minimum=0,
    )


class ObjectiveSettings(Protocol):
    """Sections of an experiment that define its objective."""

    loss: LossConfig
    beta: BetaConfig
    curriculum: CurriculumConfig
