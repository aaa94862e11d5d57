"""Images that an experiment needs to reach a validation loss, at several global batches.

Each training is a run of the trainer in its own process. An interrupted one is resumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launch import training_process
from shards.errors import UserError
from vaetrain.artifacts.run_dir import METRICS_FILE, read_metrics
from vaetrain.config.experiment import Experiment
from vaetrain.engines.engine_files import engine_file
from vaetrain.trackers.config import TrackerConfig

ENGINE = engine_file("single")
RULES = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}
"""Exponent of the batch size in the learning rate: Krizhevsky 2014, section 5 (sqrt), and Goyal et
al. 2017, section 2.1 (linear)."""
CHECKPOINTS = 4  # of a training
LONGER = 2  # factor on the image limit of batches other than the experiment's own


class _Reached(Exception):
    """Stops a training whose validation loss has reached the target."""


@dataclass(frozen=True)
class Run:
    """A training at one global batch.

    Attributes:
        batch, rule, lr: global batch, rule of its learning rate, and that rate.
        curve: points (images, validation loss).
        folder: the run directory.
    """

    batch: int
    rule: str
    lr: float
    curve: list[tuple[float, float]]
    folder: Path

    def images_to(self, target: float) -> float | None:
        """Return the images after which the validation loss first reached `target`; None: never.

        The loss is interpolated linearly between two validations.
        """
        previous = None
        for images, loss in self.curve:
            if loss <= target:
                if previous is None:
                    return images
                share = (previous[1] - target) / (previous[1] - loss)
                return previous[0] + share * (images - previous[0])
            previous = (images, loss)
        return None


def brief(experiment: Experiment, images: int, validations: int) -> Experiment:
    """Return the experiment limited to a number of images, at a constant learning rate.

    With a schedule that decays towards the end, every training would reach its target at the end.
    Validation uses the EMA of the weights, which has the effect of a decaying rate.
    """
    return replace(
        experiment,
        tracker=TrackerConfig("none"),
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
    """Return the experiment at another global batch, its learning rate by a rule of `RULES`."""
    factor = (batch / experiment.train.global_batch_size) ** RULES[rule]
    return replace(
        experiment,
        train=replace(experiment.train, global_batch_size=batch, micro_batch_size=None),
        optimizer=replace(experiment.optimizer, lr=experiment.optimizer.lr * factor),
    )


def train(experiment: Experiment, batch: int, rule: str, folder: Path, target: float | None) -> Run:
    """Train at a global batch until `target` is reached, or to the end.

    Raises UserError with the reason if the training fails.
    """
    scaled = at_batch(experiment, batch, rule)
    trial_dir = folder / f"{batch}-{rule}"
    run_dir = trial_dir / f"seed-{scaled.train.seed}"

    def current_run() -> Run:
        lines = read_metrics(run_dir / METRICS_FILE)
        curve = [(line["images"], line["loss"]) for line in lines if line["split"] == "val"]
        return Run(batch, rule, scaled.optimizer.lr, curve, run_dir)

    def reached(run: Run) -> bool:
        return target is not None and run.images_to(target) is not None

    def on_validation(_: dict) -> None:
        if reached(current_run()):
            raise _Reached

    run = current_run()
    ended = run.curve and run.curve[-1][0] >= scaled.train.max_images
    if not ended and not reached(run):
        try:
            training_process.train(scaled, scaled.train.seed, trial_dir, ENGINE, on_validation)
        except _Reached:
            pass
        except training_process.TrialFailed as error:
            raise UserError(f"global batch {batch}: {error}") from error
        run = current_run()
    if not run.curve:
        raise UserError(
            "data.shards: has no validation pages to measure the loss on; build it with some"
        )
    return run


def compare(
    experiment: Experiment,
    batches: Sequence[int],
    rules: Sequence[str],
    folder: Path,
    target: float | None,
) -> tuple[float, list[Run]]:
    """Train at every batch by every rule, and return the target and the runs.

    The experiment's own batch comes first, once for all rules, and runs to its end. The others end
    when they reach the target, or after `LONGER` times the images.

    Args:
        target: a validation loss; None: the last one of the first run.

    Raises UserError if the first run is at the target from its first validation, as happens with
    a model that starts from a PCA and is trained briefly.
    """
    own = experiment.train.global_batch_size
    first = train(experiment, own, "none", folder, None)
    if target is None:
        target = first.curve[-1][1]
    images, loss = first.curve[0]
    if loss <= target:
        raise UserError(
            f"the validation loss is at the target of {target:.4g} after {images:,} images, at the "
            "first validation: give more --images, a lower --target, or model.start=random"
        )
    limit = LONGER * experiment.train.max_images
    longer = replace(experiment, train=replace(experiment.train, max_images=limit))
    others = [(batch, rule) for batch in batches for rule in rules if batch != own]
    return target, [first, *(train(longer, *case, folder, target) for case in others)]
