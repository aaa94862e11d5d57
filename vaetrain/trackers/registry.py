"""Table of the experiment trackers; imports neither torch nor a tracker.

`vaetrain/reporting/run_log.py` feeds the trackers. A new tracker is a subclass of
`vaetrain.trackers.base.RunTracker` in a module of its own and one entry here. The setting `tracker`
and the check of installed packages follow from the table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shards.optional_dependencies import require


@dataclass(frozen=True)
class TrackerSpec:
    """Location and requirements of a tracker.

    Attributes:
        module, class_name: the tracker's class.
        package: the Python package that it needs.
        extra: the extra in setup.cfg that installs the package; None: always installed.
    """

    module: str
    class_name: str
    package: str
    extra: str | None = None


TRACKERS = {
    "tensorboard": TrackerSpec("vaetrain.trackers.tensorboard", "TensorBoard", "tensorboard"),
    "mlflow": TrackerSpec("vaetrain.trackers.mlflow", "MLflow", "mlflow", "track"),
    "wandb": TrackerSpec("vaetrain.trackers.wandb", "WandB", "wandb", "track"),
}


def require_trackers(names: Iterable[str], purpose: str) -> None:
    """Raise UserError, naming the command that installs it, if a tracker's package is missing.

    Args:
        purpose: what needs the trackers, for the message.
    """
    for spec in (TRACKERS[name] for name in names):
        if spec.extra is not None:
            require(spec.package, spec.extra, purpose)
