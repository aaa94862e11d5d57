"""Posterior collapse: noticed at validations, told in plain words, and acted upon where asked.

A dimension of the latent that says nothing about the page costs no KL, and under too high a beta
the encoder gives up one after the other (Bowman et al. 2016, section 3.1). One validation cannot
tell a model that has lost them from one that has not found them yet; their number from one
validation to the next can. Nothing here needs torch: every rank makes the same of the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from vaetrain.config.training import CollapseConfig

ADVICE = (
    "try a lower beta.max, a longer beta.warmup_epochs, beta.free_bits, "
    "or collapse.action=hold_beta"
)
LATENT_MATTERS = 1.02  # the L1 with another page's latent, in parts of that with the page's own
FALL, REST = 0.25, 1.25  # what a cap on beta is multiplied by, collapsing and healthy


@dataclass(frozen=True)
class PosteriorReport:
    """What a validation says of the posterior: `healthy`, `waking`, or `collapsing`; and why."""

    state: str
    reason: str

    def __str__(self) -> str:
        return f"{self.state}: {self.reason}"


class CollapseMonitor:
    """Looks at every validation, and holds the cap on beta.

    Too few active dimensions are a collapse, unless they are more than at the validation before: a
    model that starts at random wakes them one after the other. At the first validation of such a
    model there is nothing to compare with.

    Attributes:
        cap: what beta may be at most; None: no limit.
    """

    def __init__(self, config: CollapseConfig, *, starts_awake: bool) -> None:
        """Begin a run; `starts_awake` says that its latent dimensions are active from the start."""
        self.config = config
        self.starts_awake = starts_awake
        self.before: int | None = None
        self.cap: float | None = None

    def update(
        self, active: int, dimensions: int, beta: float, *, l1: float, l1_shuffled: float | None
    ) -> PosteriorReport:
        """The verdict on a validation, after which `cap` is what it asks for.

        Args:
            active: dimensions that tell pages apart, of so many `dimensions` that could.
            beta: what multiplies the KL now.
            l1: of reconstructions.
            l1_shuffled: of those decoded from another page's latent; None where not measured.
        """
        verdict = self._verdict(active, dimensions, l1, l1_shuffled)
        self.before = active
        if self.config.action == "hold_beta":
            self._move_cap(verdict, beta)
        return verdict

    def _verdict(
        self, active: int, dimensions: int, l1: float, l1_shuffled: float | None
    ) -> PosteriorReport:
        active = min(active, dimensions)  # of a few pages all may be, more than could be told apart
        inactive = dimensions - active
        told = f"{active} of {dimensions} dimensions active"
        if inactive > self.config.inactive_share * dimensions:
            if self.before is None and not self.starts_awake:
                return PosteriorReport("waking", f"{told} at the first look")
            if self.before is not None and active > self.before:
                return PosteriorReport("waking", f"{told}, {self.before} at the validation before")
            return PosteriorReport(
                "collapsing", f"{inactive} of {dimensions} dimensions inactive; {ADVICE}"
            )
        if l1_shuffled is not None and l1_shuffled < LATENT_MATTERS * l1:
            return PosteriorReport(
                "collapsing",
                f"{told}, but the decoder does as well with another page's latent; try a higher "
                "skips.dropout, or skips that open later (skips.start_epoch)",
            )
        return PosteriorReport("healthy", told)

    def _move_cap(self, verdict: PosteriorReport, beta: float) -> None:
        if verdict.state == "collapsing" and beta > 0:
            self.cap = FALL * beta
        elif verdict.state == "healthy" and self.cap is not None:
            # A schedule that asks for less than the cap no longer needs it.
            self.cap = REST * self.cap if beta >= self.cap else None

    def state(self) -> dict[str, float | None]:
        """What a checkpoint needs."""
        return {"before": self.before, "cap": self.cap}

    def load(self, state: dict[str, float | None]) -> None:
        """Go on from a checkpoint."""
        self.before, self.cap = state["before"], state["cap"]
