"""Warnings about a discriminator that dominates the VAE or has stopped discriminating."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

DOMINATES, DEAD, WELL = "dominates", "dead", "well"
ENTER = {DOMINATES: 0.98, DEAD: 0.53}  # accuracy at which a status begins
LEAVE = {DOMINATES: 0.95, DEAD: 0.60}  # accuracy at which it ends
LINES = 3  # consecutive logged lines that begin or end a status

ADVICE = {
    DOMINATES: "its gradients vanish or become harsh; lower gan.lr or gan.updates, or set "
    "gan.regularizer=r1 or raise gan.regularizer_weight",
    DEAD: "its gradients carry no information; raise gan.lr or gan.updates, lower gan.weight or "
    "gan.regularizer_weight, or set gan.discriminator=patch",
}
TITLES = {
    DOMINATES: "the discriminator dominates",
    DEAD: "the discriminator cannot tell originals from reconstructions",
}


class DiscriminatorMonitor:
    """Status of the discriminator by its accuracy in the logged lines, with hysteresis.

    A status begins after `LINES` consecutive lines beyond its threshold in `ENTER`, and ends after
    as many on the other side of its threshold in `LEAVE`, which is nearer to the middle.

    Attributes:
        status: `well`, `dominates` or `dead`.
    """

    def __init__(self) -> None:
        self.status = WELL
        self.pending = WELL
        self.lines = 0

    def update(self, accuracy: float) -> Iterator[str]:
        """Add the accuracy of a logged line, 0 to 1; yield the messages to log now."""
        status = self._status_of(accuracy)
        if status == self.status:
            self.lines = 0
            return
        self.lines = self.lines + 1 if status == self.pending else 1
        self.pending = status
        if self.lines < LINES:
            return
        previous, self.status, self.lines = self.status, status, 0
        if previous != WELL:
            yield f"resolved: {TITLES[previous]} (accuracy {accuracy:.2f} now)"
        if status != WELL:
            yield f"warning: {TITLES[status]} (accuracy {accuracy:.2f}): {ADVICE[status]}"

    def _status_of(self, accuracy: float) -> str:
        """Return the status by this line alone, with the thresholds of the current status."""
        if accuracy >= (LEAVE if self.status == DOMINATES else ENTER)[DOMINATES]:
            return DOMINATES
        if accuracy <= (LEAVE if self.status == DEAD else ENTER)[DEAD]:
            return DEAD
        return WELL

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"verdict": self.status, "pending": self.pending, "lines": self.lines}

    def load(self, state: dict[str, Any]) -> None:
        """Load the state from a checkpoint."""
        self.status, self.pending, self.lines = state["verdict"], state["pending"], state["lines"]
