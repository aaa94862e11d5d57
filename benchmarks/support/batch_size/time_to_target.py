"""The same experiment at several global batches: what a validation loss costs in images.

Trainings are the trainer's, each in a process of its own, and go on where they were interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launch import trial
from shards.errors import UserError
from vaetrain.artifacts.run_dir import METRICS_FILE, read_metrics
from vaetrain.config.experiment import Experiment
from vaetrain.engines.engine_files import engine_file

ENGINE = engine_file("single")
RULES = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}
"""The power of the batch that the learning rate grows with: Krizhevsky 2014, section 5 (sqrt), and
Goyal et al. 2017, section 2.1 (linear)."""
CHECKPOINTS = 4  # of a training
LONGER = 2  # times the images, that batches other than the experiment's own may take


class _Reached(Exception):
    """How a training is stopped that has come to its target."""


@dataclass(frozen=True)
class Run:
    """A training at one global batch.

    Attributes:
        batch, rule, lr: global batch, how its learning rate was found, and that rate.
        curve: points (images, validation loss).
        folder: the run directory.
    """

    batch: int
    rule: str
    lr: float
    curve: list[tuple[float, float]]
    folder: Path

    def images_to(self, target: float) -> float | None:
        """Images after which the validation loss was first at `target`; None: never.

        Between two validations it is taken to fall in a straight line.
        """
        before = None
        for images, loss in self.curve:
            if loss <= target:
                if before is None:
                    return images
                share = (before[1] - target) / (before[1] - loss)
                return before[0] + share * (images - before[0])
            before = (images, loss)
        return None


def brief(experiment: Experiment, images: int, validations: int) -> Experiment:
    """The experiment as the study trains it: for so many images, at a constant learning rate.

    A schedule that falls towards the end would reach every target at the end. What is validated is
    the average of the weights, which does for them what a falling rate does.
    """
    return replace(
        experiment,
        tracker="none",
        lr=replace(experiment.lr, schedule="constant"),
        train=replace(
            experiment.train,
            epochs=1e6,
            max_images=images,
            log_every_images=max(1, images // validations),
            validate_every_images=max(1, images // validations),
            checkpoint_every_images=max(1, images // CHECKPOINTS),
            keep_checkpoints=CHECKPOINTS + 1,
        ),
    )


def at_batch(experiment: Experiment, batch: int, rule: str) -> Experiment:
    """The experiment at another global batch, its learning rate by a rule of `RULES`."""
    factor = (batch / experiment.train.global_batch_size) ** RULES[rule]
    return replace(
        experiment,
        train=replace(experiment.train, global_batch_size=batch, micro_batch_size=None),
        optimizer=replace(experiment.optimizer, lr=experiment.optimizer.lr * factor),
    )


def train(experiment: Experiment, batch: int, rule: str, folder: Path, target: float | None) -> Run:
    """Train at a global batch until `target` is reached, or to the end.

    Raises UserError where it fails, with the reason that it gave.
    """
    scaled = at_batch(experiment, batch, rule)
    place = folder / f"{batch}-{rule}"
    run_dir = place / f"seed-{scaled.train.seed}"

    def result() -> Run:
        lines = read_metrics(run_dir / METRICS_FILE)
        curve = [(line["images"], line["loss"]) for line in lines if line["split"] == "val"]
        return Run(batch, rule, scaled.optimizer.lr, curve, run_dir)

    def reached(run: Run) -> bool:
        return target is not None and run.images_to(target) is not None

    def look(_: dict) -> None:
        if reached(result()):
            raise _Reached

    found = result()
    ended = found.curve and found.curve[-1][0] >= scaled.train.max_images
    if not ended and not reached(found):
        try:
            trial.train(scaled, scaled.train.seed, place, ENGINE, look)
        except _Reached:
            pass
        except trial.TrialFailed as error:
            raise UserError(f"global batch {batch}: {error}") from error
        found = result()
    if not found.curve:
        raise UserError("data.shards: there are no validation pages to judge trainings by")
    return found


def compare(
    experiment: Experiment,
    batches: Sequence[int],
    rules: Sequence[str],
    folder: Path,
    target: float | None,
) -> tuple[float, list[Run]]:
    """Train at every batch under every rule; the target, and the runs.

    The experiment's own batch comes first, whatever the rule, and runs to its end. The others end
    where they have reached the target, or after `LONGER` times the images.

    Args:
        target: a validation loss; None: what the first ends with.

    Raises UserError where the first was at the target from the start, as a model is that starts
    from components and is not trained for long.
    """
    own = experiment.train.global_batch_size
    first = train(experiment, own, "none", folder, None)
    if target is None:
        target = first.curve[-1][1]
    images, loss = first.curve[0]
    if loss <= target:
        raise UserError(
            f"a validation loss of {target:.4g} was reached after {images:,} images already: "
            "give more --images, a lower --target, or model.start=random"
        )
    limit = LONGER * experiment.train.max_images
    longer = replace(experiment, train=replace(experiment.train, max_images=limit))
    others = [(batch, rule) for batch in batches for rule in rules if batch != own]
    return target, [first, *(train(longer, *case, folder, target) for case in others)]
