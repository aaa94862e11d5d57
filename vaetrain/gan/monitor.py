"""Says in plain words when a discriminator has died or dominates, and when it is over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

DOMINATES, DEAD, WELL = "dominates", "dead", "well"
ENTER = {DOMINATES: 0.98, DEAD: 0.53}  # accuracies at which a verdict begins
LEAVE = {DOMINATES: 0.95, DEAD: 0.60}  # and as far as which it holds
LINES = 3  # logged lines in a row that it takes either way

ADVICE = {
    DOMINATES: "what it teaches fades or turns harsh; lower gan.lr or gan.updates, or set "
    "gan.regularizer=r1 or raise gan.regularizer_weight",
    DEAD: "it teaches nothing; raise gan.lr or gan.updates, lower gan.weight or "
    "gan.regularizer_weight, or take gan.discriminator=patch",
}
TITLES = {
    DOMINATES: "the discriminator dominates",
    DEAD: "the discriminator cannot tell originals from reconstructions",
}


class DiscriminatorMonitor:
    """A rule on the accuracy of each logged line, with hysteresis so that it does not chatter.

    `LINES` lines in a row beyond an entry threshold are a verdict; so many on the other side of its
    leaving threshold, which lies nearer to the middle, end it.

    Attributes:
        verdict: `well`, `dominates` or `dead`.
    """

    def __init__(self) -> None:
        self.verdict = WELL
        self.pending = WELL
        self.lines = 0

    def update(self, accuracy: float) -> Iterator[str]:
        """Take the accuracy, 0 to 1, of a logged line; what there is to say now."""
        found = self._of(accuracy)
        if found == self.verdict:
            self.lines = 0
            return
        self.lines = self.lines + 1 if found == self.pending else 1
        self.pending = found
        if self.lines < LINES:
            return
        before, self.verdict, self.lines = self.verdict, found, 0
        if before != WELL:
            yield f"over: {TITLES[before]} (accuracy {accuracy:.2f} now)"
        if found != WELL:
            yield f"warning: {TITLES[found]} (accuracy {accuracy:.2f}): {ADVICE[found]}"

    def _of(self, accuracy: float) -> str:
        """What this line alone would say, given the verdict that it has to change."""
        if accuracy >= (LEAVE if self.verdict == DOMINATES else ENTER)[DOMINATES]:
            return DOMINATES
        if accuracy <= (LEAVE if self.verdict == DEAD else ENTER)[DEAD]:
            return DEAD
        return WELL

    def state(self) -> dict[str, Any]:
        """The rule's memory, as JSON, for a checkpoint."""
        return dict(vars(self))

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        vars(self).update(state)
