"""Detection of posterior collapse at validations, and the cap on beta against it.

A latent dimension that carries no information about the page costs no KL. Under too high a beta the
encoder gives up one dimension after another (Bowman et al. 2016, section 3.1). At a single
validation, dimensions that are lost look like dimensions that are not yet in use; their number from
one validation to the next tells them apart. Torch is not needed: every rank computes the same from
the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from vaetrain.config.training import CollapseConfig

ADVICE = (
    "try a lower beta.max, a longer beta.warmup_epochs, beta.free_bits, "
    "or collapse.action=hold_beta"
)
# Least ratio of the L1 with another page's latent to the L1 with the page's own latent.
MIN_SHUFFLED_RATIO = 1.02
CAP_DECREASE, CAP_INCREASE = 0.25, 1.25  # factors on the cap, while collapsing and while healthy


@dataclass(frozen=True)
class PosteriorReport:
    """State of the posterior at a validation: `healthy`, `waking` or `collapsing`, and the reason.

    `waking`: few dimensions are active, but their number is rising or seen for the first time.
    """

    state: str
    reason: str

    def __str__(self) -> str:
        return f"{self.state}: {self.reason}"


class CollapseMonitor:
    """Posterior report of every validation, and the cap on beta that follows from them.

    Too few active dimensions are a collapse, unless they are more than at the last validation: a
    model with random initial weights activates them one after another. The first validation of such
    a model has nothing to compare with, so it reports `waking`.

    Attributes:
        previous: active dimensions at the last validation; None before the first.
        cap: upper bound of beta; None: unbounded.
    """

    def __init__(self, config: CollapseConfig, *, starts_active: bool) -> None:
        """Start a run.

        Args:
            starts_active: whether latent dimensions are active from the start, as after a PCA.
        """
        self.config = config
        self.starts_active = starts_active
        self.previous: int | None = None
        self.cap: float | None = None

    def update(
        self,
        active: int,
        dimensions: int,
        beta: float,
        *,
        latent_dim: int,
        l1: float,
        l1_shuffled: float | None,
    ) -> PosteriorReport:
        """Report on a validation, and move the cap.

        Args:
            active: dimensions that differ between pages.
            dimensions: the most that the validation pages can show to be active.
            beta: weight of the KL now.
            latent_dim: dimensions of the latent.
            l1: of reconstructions.
            l1_shuffled: of reconstructions from another page's latent; None where not measured.
        """
        report = self._report(active, dimensions, latent_dim, l1, l1_shuffled)
        self.previous = active
        if self.config.action == "hold_beta":
            self._move_cap(report, beta)
        return report

    def _report(
        self, active: int, dimensions: int, latent_dim: int, l1: float, l1_shuffled: float | None
    ) -> PosteriorReport:
        active = min(active, dimensions)  # among few pages all dimensions may count as active
        inactive = dimensions - active
        of = f"{dimensions} dimensions"
        if dimensions < latent_dim:
            of = f"the {dimensions} dimensions that the validation pages can show "
            of += f"({latent_dim} in all)"
        count = f"{active} of {of} active"
        if inactive > self.config.inactive_share * dimensions:
            if self.previous is None and not self.starts_active:
                return PosteriorReport("waking", f"{count} at the first validation")
            if self.previous is not None and active > self.previous:
                return PosteriorReport("waking", f"{count}, {self.previous} at the last validation")
            return PosteriorReport("collapsing", f"{inactive} of {of} inactive; {ADVICE}")
        if l1_shuffled is not None and l1_shuffled < MIN_SHUFFLED_RATIO * l1:
            return PosteriorReport(
                "collapsing",
                f"{count}, but the decoder does as well with another page's latent; try a higher "
                "skips.dropout, or skips that open later (skips.start_epoch)",
            )
        return PosteriorReport("healthy", count)

    def _move_cap(self, report: PosteriorReport, beta: float) -> None:
        if report.state == "collapsing" and beta > 0:
            self.cap = CAP_DECREASE * beta
        elif report.state == "healthy" and self.cap is not None:
            # A schedule whose beta is below the cap no longer needs it.
            self.cap = CAP_INCREASE * self.cap if beta >= self.cap else None

    def state(self) -> dict[str, float | None]:
        """Return the state for a checkpoint."""
        return {"before": self.previous, "cap": self.cap}

    def load(self, state: dict[str, float | None]) -> None:
        """Load the state from a checkpoint."""
        self.previous, self.cap = state["before"], state["cap"]
