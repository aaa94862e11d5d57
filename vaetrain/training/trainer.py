"""Training loop: steps, and what is logged, validated and saved between them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import NoReturn

import torch
from torch import Tensor

from shards.reading.batch import Batch
from vaetrain.engines.stop_request import StopRequest
from vaetrain.evaluation.retrieval import PageLabels
from vaetrain.losses.weights import Weights
from vaetrain.reporting.run_log import RunLog
from vaetrain.schedules import skip_gate_at
from vaetrain.training.between_steps import (
    TrainingFailed,
    log_means,
    save_checkpoint,
    validate,
    write_final_model,
)
from vaetrain.training.build import Run
from vaetrain.training.contrast import contrast_of_step
from vaetrain.training.step import Contrast


class Trainer:
    """Loop over the steps of a run.

    Attributes:
        parts: what the run consists of, and its image count.
        stop: requests to stop, on which all ranks agree.
        log: record of the run; opened by `start`.
    """

    log: RunLog

    def __init__(self, parts: Run) -> None:
        self.parts = parts
        self.stop = StopRequest()

    def run(self) -> None:
        """Train from the run's image count to its horizon, or until a stop is requested.

        Raises TrainingFailed where the run cannot continue.
        """
        parts, engine = self.parts, self.parts.engine
        if parts.is_at_end and parts.directory.is_finished:
            engine.log(f"{parts.directory.folder} is finished: {parts.images} images")
            return
        if parts.images:
            engine.log(f"resuming at {parts.images} of {parts.clock.horizon} images")
        batches = self.start()
        while not parts.is_at_end:
            self.step(batches)
            if self.after_step():
                break
        batches.close()
        if parts.is_at_end:
            write_final_model(parts, self.log)
        self.log.close()

    def start(self) -> Iterator[Batch]:
        """Open the log and start to read; return the micro batches from here to the horizon."""
        parts = self.parts
        if not parts.engine.is_main:
            self.open_log()
        parts.engine.on_main(self.open_log)
        steps = range(parts.clock.steps(parts.images), parts.clock.steps(parts.clock.horizon))
        batches = parts.data.training_batches(parts.batching, steps)
        parts.stopwatch.restart(parts.images)
        return batches

    def open_log(self) -> None:
        """Start the record of the run, or continue it; only the main process writes."""
        parts, is_main = self.parts, self.parts.engine.is_main
        if is_main:
            parts.directory.write_experiment(parts.experiment)
        self.log = RunLog(
            parts.directory.folder,
            parts.experiment,
            horizon=parts.clock.horizon,
            images=parts.images,
            enabled=is_main,
        )
        if is_main:
            self.log.start_trackers()

    def step(self, batches: Iterator[Batch]) -> None:
        """Take one optimizer step, on the gradient of the mean loss over a global batch."""
        parts, engine, phase = self.parts, self.parts.engine, self.parts.stopwatch.phase
        images = parts.images + parts.batching.global_batch
        epoch = parts.clock.epoch(images)
        weights = parts.state.weights_at(epoch)
        experiment = parts.experiment
        skip_gate = skip_gate_at(experiment.skips, experiment.model.skips, epoch)
        engine.module.skip_gate.fill_(skip_gate)  # read by evaluations, which draw no gate
        parts.state.begin(images)
        kl = torch.zeros((), device=engine.device)
        pages: Iterable[Batch] = (self.read(batches) for _ in range(parts.batching.accumulation))
        contrasts: Iterable[Contrast | None] = itertools.repeat(None)
        if parts.objective.compares_pages:
            pages = list(pages)
            contrasts = self.contrast(pages)
        for index, (batch, contrast) in enumerate(zip(pages, contrasts, strict=False)):
            with phase("data"):
                batch = batch.to(engine.device)
            with engine.micro_batch(last=index == parts.batching.accumulation - 1):
                kl += self.forward_backward(batch, weights, skip_gate, contrast)["kl"].sum()
        with phase("optimizer"):
            norm, applied = parts.state.step(images, kl)
        with phase("log"):
            parts.meter.add_step(norm, parts.experiment.optimizer.clip_norm, applied)
            self.log.update_progress(images)
        parts.images = images

    def read(self, batches: Iterator[Batch]) -> Batch:
        """Return the next micro batch on the host."""
        parts, engine = self.parts, self.parts.engine
        engine.mark_progress(f"reading pages at {parts.images} images")
        with parts.stopwatch.phase("data"):
            batch = next(batches)
        engine.mark_progress(f"computing at {parts.images} images")
        return batch

    def contrast(self, batches: list[Batch]) -> list[Contrast]:
        """Return the contrastive losses of one step's micro batches on the host. Collective."""
        parts, device = self.parts, self.parts.engine.device
        names = [PageLabels.from_index(parts.data.index, batch.ids) for batch in batches]
        with parts.stopwatch.phase("contrast"):
            return contrast_of_step(
                [batch.to(device) for batch in batches],
                [each.templates.to(device) for each in names],
                parts.forward,
                parts.engine,
            )

    def forward_backward(
        self,
        batch: Batch,
        weights: Weights,
        skip_gate: float,
        contrast: Contrast | None = None,
    ) -> dict[str, Tensor]:
        """Add one micro batch to the step's gradient and to the meter; return the loss parts."""
        parts, phase = self.parts, self.parts.stopwatch.phase
        losses, terms = parts.forward(batch, weights, skip_gate, parts.state.active_gan, contrast)
        with phase("backward"):
            parts.engine.backward(losses, parts.batching.global_batch)
        with phase("log"):
            rows = torch.full_like(batch.heights, batch.size[0])
            parts.meter.add_samples(terms | {"valid_rows": batch.heights, "rows": rows})
        return terms

    def after_step(self) -> bool:
        """Log, validate and save where due; return whether a stop was requested."""
        parts, watch, settings = self.parts, self.parts.stopwatch, self.parts.experiment.train
        if self._is_due(settings.log_every_images):
            with watch.phase("log"):
                log_means(parts, self.log)
            self._check_skipped_steps(settings.max_skipped_steps)
        with watch.paused():
            if self._is_due(settings.validate_every_images):
                self._validate()
            is_stopping = self.stop.agreed() and not parts.is_at_end
            if self._is_due(settings.checkpoint_every_images) or is_stopping:
                with watch.phase("checkpoint"):
                    save_checkpoint(parts, self.log, required=parts.is_at_end or is_stopping)
        if is_stopping:
            self.log.print(
                f"stop requested: checkpoint saved at {parts.images} images in "
                f"{parts.directory.checkpoints}; the same command resumes from it"
            )
        return is_stopping

    def _is_due(self, every: int) -> bool:
        """Return whether something due every so many images is due now; all is at the end."""
        return self.parts.clock.due(self.parts.images, every) or self.parts.is_at_end

    def _validate(self) -> None:
        parts = self.parts
        with parts.stopwatch.phase("validation"):
            report = validate(parts, self.log)
        is_collapsing = report is not None and report.state == "collapsing"
        if is_collapsing and parts.experiment.collapse.action == "stop" and not parts.is_at_end:
            self.give_up(f"the posterior is {report} (collapse.action)")

    def _check_skipped_steps(self, maximum: int) -> None:
        longest = self.parts.meter.longest_skip
        if longest >= maximum:
            self.give_up(
                f"{longest} steps in a row were skipped because a loss or gradient was not finite "
                "(train.max_skipped_steps); the weights are those of the last applied step"
            )

    def give_up(self, reason: str) -> NoReturn:
        """Save a checkpoint and end the run on all ranks, by TrainingFailed."""
        try:
            save_checkpoint(self.parts, self.log, required=True)
        except TrainingFailed as error:
            raise TrainingFailed(f"stopped: {reason}; {error}") from error
        self.log.close()
        raise TrainingFailed(
            f"stopped: {reason}; checkpoint saved at {self.parts.images} images in "
            f"{self.parts.directory.checkpoints}; the same command resumes from it"
        )
