"""A run, top to bottom: what it is made of, its loop, a step, and what happens between steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import torch
from torch import Tensor

from shards.errors import UserError
from shards.randomness import sample_keys
from shards.reading.batch import Batch
from shards.storage import CannotWrite
from vaetrain.artifacts import checkpoint
from vaetrain.artifacts.checkpoint import Checkpoint
from vaetrain.artifacts.final_model import (
    load_encoder,
    load_weights,
    newest_checkpoint,
    write_final,
)
from vaetrain.artifacts.run_dir import RunDir
from vaetrain.augmentation.pipeline import Augment
from vaetrain.augmentation.policy import load_policy
from vaetrain.config.command import Command
from vaetrain.config.experiment import as_dict
from vaetrain.data.config import SAMPLE_SHARDS
from vaetrain.data.loading import TrainingData, build_sample
from vaetrain.engines.base import Engine
from vaetrain.engines.model_options import apply_options
from vaetrain.engines.optimizers import build_optimizer
from vaetrain.engines.stop_request import StopRequest
from vaetrain.evaluation.baselines import score_constant_pages
from vaetrain.evaluation.validation import (
    MAX_COMPARED_PAGES,
    alive_dimensions,
    encode_pages,
    summarise,
)
from vaetrain.losses.objective import Objective
from vaetrain.losses.weights import Weights
from vaetrain.meters import Meter, ids_hash, left_out
from vaetrain.model.mixup import Mixup
from vaetrain.model.vae import VAE, draw_noise
from vaetrain.reporting.model_figures import model_figures
from vaetrain.reporting.projector import project_latents
from vaetrain.reporting.run_log import RunLog, Stopwatch, summary_lines
from vaetrain.reporting.validation_figures import validation_figures
from vaetrain.schedules import skip_gate_at
from vaetrain.training.collapse import PosteriorReport
from vaetrain.training.pca_start import start_from_pca
from vaetrain.training.state import TrainingState


class TrainingFailed(UserError):
    """A run that ends before its horizon, on all ranks alike; the message is one plain line."""


class Trainer:
    """One run: all its parts, and its clock, the image count."""

    def __init__(self, command: Command, engine: Engine) -> None:
        self.experiment = experiment = command.experiment
        self.settings = experiment.train
        self.engine = engine
        self.batching = experiment.batching(engine.world_size)
        self.announce()
        self.run_dir = RunDir(command.run_dir)
        engine.on_main(self.prepare_disk)

        engine.mark_progress("building the model")
        shape = (experiment.model, experiment.data.width, experiment.data.max_height)
        torch.manual_seed(experiment.train.seed)
        model = VAE(*shape).to(engine.device)
        apply_options(
            model,
            engine.device,
            precision=engine.precision,
            channels_last=self.settings.channels_last,
            checkpoint_activations=self.settings.checkpoint_activations,
            compile=self.settings.compile,
        )
        self.data = TrainingData(
            experiment.data,
            engine,
            model.stride,
            seed=self.settings.seed,
            global_batch_size=self.settings.global_batch_size,
        )
        self.clock = experiment.clock(len(self.data.train))
        self.augment = Augment(load_policy(experiment.augment, experiment.data.folder))
        saved = newest_checkpoint(self.run_dir.checkpoints, engine.log)
        engine.require_equal(
            -1 if saved is None else saved.images,
            f"{self.run_dir.folder}: not all ranks find the same checkpoint; "
            "the run directory must lie on a disk that all machines share",
        )
        if saved is not None:
            with checkpoint.of_this_version():
                checkpoint.check_same_run(
                    saved, experiment, self.augment.policy, self.data.fingerprint
                )
            load_weights(model, saved.weights, self.run_dir.checkpoints)
        elif model.starts_from_pca:
            start_from_pca(model, self.data, engine)
        engine.prepare(
            model,
            build_optimizer(model, experiment.optimizer),
            micro_batch=self.batching.micro_batch,
            accumulation=self.batching.accumulation,
            clip_norm=experiment.optimizer.clip_norm,
        )
        with torch.device("meta"):
            skeleton = VAE(*shape)
        alpha = experiment.augment.mixup_alpha
        self.mixup = Mixup(alpha, engine.device) if alpha > 0 else None
        self.objective = Objective(experiment, load_encoder).to(engine.device)
        self.state = TrainingState(experiment, self.clock, engine, self.objective, skeleton)
        self.meter = Meter(engine, self.objective.parts)
        self.images = 0
        self.best: dict[str, float] = {}
        if saved is not None:
            with checkpoint.of_this_version():
                self.resume(saved)
        self.stop = StopRequest()
        self.watch = Stopwatch()

    def announce(self) -> None:
        """The log's first line: what is running, in terms anyone can check."""
        engine, batching = self.engine, self.batching
        engine.log(
            f"engine={engine.name} backend={engine.backend} world_size={engine.world_size} "
            f"precision={engine.precision} global_batch={batching.global_batch} "
            f"micro_batch={batching.micro_batch} accumulation={batching.accumulation}"
        )

    def prepare_disk(self) -> None:
        """What one process does for all: hold the run directory, build the built-in sample."""
        self.run_dir.claim()
        if self.experiment.data.folder == SAMPLE_SHARDS:
            build_sample()

    def resume(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint, whose weights the model was made of."""
        self.engine.load_optimizer_state(saved.optimizer)
        self.state.load(saved)
        self.meter.load(saved.state["meter"])
        self.best = saved.state["best"]
        self.images = saved.images

    def run(self) -> None:
        """Train from the clock's reading to its horizon, or until asked to stop."""
        if self.images >= self.clock.horizon and self.run_dir.is_finished:
            self.engine.log(f"{self.run_dir.folder} is finished: {self.images} images")
            return
        if self.images:
            self.engine.log(f"resuming at {self.images} of {self.clock.horizon} images")
        batches = self.start()
        while self.images < self.clock.horizon:
            self.step(batches)
            if self.end_of_step():
                break
        batches.close()
        if self.images >= self.clock.horizon:
            self.finish()
        self.log.close()

    def start(self) -> Iterator[Batch]:
        """Open the log, and begin to read: the batches from here to the horizon."""
        if not self.engine.is_main:
            self.open_log()
        self.engine.on_main(self.open_log)
        steps = range(self.clock.steps(self.images), self.clock.steps(self.clock.horizon))
        batches = self.data.training_batches(self.batching, steps)
        self.watch.restart(self.images)
        return batches

    def open_log(self) -> None:
        """Begin the record of the run, or go on with it."""
        if self.engine.is_main:
            self.run_dir.write_experiment(self.experiment)
        self.log = RunLog(
            self.run_dir.folder,
            self.experiment,
            horizon=self.clock.horizon,
            images=self.images,
            enabled=self.engine.is_main,
        )
        if self.engine.is_main:
            self.log.start_trackers()

    def step(self, batches: Iterator[Batch]) -> None:
        """One optimizer step: the gradient of the mean loss over a global batch."""
        images = self.images + self.batching.global_batch
        epoch = self.clock.epoch(images)
        weights, gate = self.state.weights_at(epoch), skip_gate_at(self.experiment.skips, epoch)
        self.engine.module.skip_gate.fill_(gate)  # where an evaluation finds it
        self.state.begin(images)
        kl = torch.zeros((), device=self.engine.device)
        for turn in range(self.batching.accumulation):
            self.engine.mark_progress(f"reading pages at {self.images} images")
            with self.watch.phase("data"):
                batch = next(batches).to(self.engine.device)
            self.engine.mark_progress(f"computing at {self.images} images")
            with self.engine.micro_batch(last=turn == self.batching.accumulation - 1):
                kl += self.forward_backward(batch, weights, gate)["kl"].sum()
        with self.watch.phase("optimizer"):
            norm, applied = self.state.step(images, kl)
        with self.watch.phase("log"):
            self.meter.add_step(norm, self.experiment.optimizer.clip_norm, applied)
            self.log.update_progress(images)
        self.images = images

    def forward_backward(self, batch: Batch, weights: Weights, gate: float) -> dict[str, Tensor]:
        """Add one micro batch to the step's gradient; the parts of its loss."""
        seed, phase, active_gan = self.settings.seed, self.watch.phase, self.state.active_gan
        with phase("augment"):
            inputs, targets = self.augment(batch, seed)
            keys = sample_keys(seed, batch.epochs, batch.ids, "eps")
            noise = draw_noise(
                self.engine.module, keys, batch.size, gate, self.experiment.skips.dropout
            )
            shares = None
            if self.mixup is not None:
                shares = self.mixup.shares(seed, batch.epochs, batch.ids)
        with phase("forward"):
            output = self.engine.model(inputs, batch.heights, noise, shares)
        shares = None if shares is None else 2 * shares
        with phase("loss"):
            if active_gan is not None:
                output, theirs = active_gan.fork(output, batch.heights)
            losses, parts = self.objective(output, targets, batch.heights, weights, shares)
            if active_gan is not None:
                ours = output.reconstruction
                losses = losses + active_gan.terms(ours, theirs, targets, batch.heights, shares)
                parts["loss"] = losses.detach()
        with phase("backward"):
            self.engine.backward(losses, self.batching.global_batch)
        with phase("log"):
            rows = torch.full_like(batch.heights, batch.size[0])
            self.meter.add_samples(parts | {"valid_rows": batch.heights, "rows": rows})
        return parts

    def end_of_step(self) -> bool:
        """Log, validate and save where the clock says so; True when asked to leave."""
        settings, at_end = self.settings, self.images >= self.clock.horizon
        if self.clock.due(self.images, settings.log_every_images) or at_end:
            with self.watch.phase("log"):
                self.log_line()
            if self.meter.in_a_row >= settings.max_skipped_steps:
                self.give_up(
                    f"{self.meter.in_a_row} steps in a row were left out, for a loss or gradient "
                    "was not finite (train.max_skipped_steps); the weights are those of the last "
                    "step that was applied"
                )
        with self.watch.paused():
            if self.clock.due(self.images, settings.validate_every_images) or at_end:
                with self.watch.phase("validation"):
                    verdict = self.validate()
                collapsing = verdict is not None and verdict.state == "collapsing"
                if collapsing and self.experiment.collapse.action == "stop" and not at_end:
                    self.give_up(f"the posterior is {verdict} (collapse.action)")
            leaving = self.stop.agreed() and not at_end
            if self.clock.due(self.images, settings.checkpoint_every_images) or at_end or leaving:
                with self.watch.phase("checkpoint"):
                    self.save(must=at_end or leaving)
        if leaving:
            self.log.print(
                f"asked to stop: saved at {self.images} images in {self.run_dir.checkpoints}; "
                "the same command goes on from there"
            )
        return leaving

    def give_up(self, reason: str) -> NoReturn:
        """Save, and end the run on all ranks."""
        try:
            self.save(must=True)
        except TrainingFailed as error:
            raise TrainingFailed(f"stopped: {reason}; {error}") from error
        self.log.close()
        raise TrainingFailed(
            f"stopped: {reason}; saved at {self.images} images in {self.run_dir.checkpoints}; "
            "the same command goes on from there"
        )

    def log_line(self) -> None:
        """Write what was optimised since the last line."""
        since, epoch = self.meter.since, self.clock.epoch(self.images)
        steps = range(self.clock.steps(since), self.clock.steps(self.images))
        values = self.meter.read(self.images)
        values |= {
            "epoch": epoch,
            "beta": float(self.state.weights_at(epoch).beta),
            "lr": self.state.lr_at(epoch),
            "images_per_second": (self.images - self.watch.images) / self.watch.elapsed,
            "data_wait_share": self.watch.seconds["data"] / self.watch.elapsed,
            **self.objective.learned_weights(),
        }
        self.watch.restart(self.images)
        adversary = self.state.gan
        if adversary is not None:
            values |= adversary.read()
            for message in adversary.warnings(values):
                self.log.print(message)
        if self.engine.is_main:
            values["ids_hash"] = ids_hash(self.data.order, steps)
            bad = [self.data.order.step(steps[number])[0].tolist() for number in self.meter.skipped]
            if bad:
                values["skipped_ids"] = bad
                self.log.print(left_out(bad, len(steps), self.images))
        self.log.write_metrics("train", self.images, values)
        self.log.show_values(values)

    def validate(self) -> PosteriorReport | None:
        """Evaluate the averaged model on every validation page; what that says of its latent."""
        self.engine.mark_progress(f"validating at {self.images} images")
        if len(self.data.val) == 0:
            return None
        epoch = self.clock.epoch(self.images)
        weights, model = self.state.weights_at(epoch), self.state.ema.model()
        pages = encode_pages(
            model, self.data.pages(self.data.val), self.engine, self.objective, weights
        )
        asks_labels = self.engine.is_main and len(pages.ids) <= MAX_COMPARED_PAGES
        metrics = summarise(pages, self.data.index if asks_labels else None)
        verdict = None
        if len(pages.ids) > 1:
            verdict = self.state.collapse.update(
                alive_dimensions(pages, model),
                min(model.latent_dim, len(pages.ids) - 1),
                float(weights.beta),
                l1=metrics["l1"],
                l1_shuffled=metrics.get("l1_shuffled"),
            )
            self.log.print(f"validation at {self.images} images: {verdict}")
        found = {"epoch": epoch, "beta": float(weights.beta), **metrics}
        self.log.write_metrics("val", self.images, found | {"verdict": verdict and verdict.state})
        if not self.best or metrics["l1"] < self.best["l1"]:
            self.best = {"images": self.images, **metrics}
        if self.log.wants_pictures:
            self.log.write_pictures(self.images, validation_figures(model, self.data, pages))
        return verdict

    def save(self, *, must: bool = False) -> None:
        """Write a checkpoint that any engine can resume from. Collective.

        Args:
            must: that it cannot be written ends the run, whatever `train.on_failed_save` says.

        Raises TrainingFailed.
        """
        self.engine.mark_progress(f"saving at {self.images} images")
        state = {
            "experiment": as_dict(self.experiment),
            "policy": self.augment.policy.as_dict(),
            "data": self.data.fingerprint,
            "meter": self.meter.state(),
            "best": self.best,
            **self.state.json_state(),
        }
        tensors = {
            "weights": self.engine.collect(self.engine.weights()),
            "optimizer": self.engine.collect(self.engine.optimizer_state()),
            **self.state.tensors(),
        }

        def write() -> None:
            self.log.sync()
            saved = Checkpoint(self.images, state=state, **tensors)
            checkpoint.save(self.run_dir.checkpoints, saved, self.settings.keep_checkpoints)

        try:
            self.engine.on_main(write, CannotWrite)
        except CannotWrite as error:
            if must or self.settings.on_failed_save == "stop":
                self.log.close()
                raise TrainingFailed(
                    f"not saved at {self.images} images: {error}; once it can be, the same command "
                    "goes on from the checkpoint before"
                ) from error
            self.log.print(
                f"warning: not saved at {self.images} images: {error}; the checkpoint before "
                "stays, and training goes on (train.on_failed_save)"
            )

    def finish(self) -> None:
        """Hand the averaged model over, and say in a few lines what was reached."""
        self.engine.mark_progress("handing the model over")
        baselines = score_constant_pages(self.data)
        results = {"images": self.images, "best": self.best, "baselines": baselines}
        results["data"] = self.data.summary
        model = self.state.ema.model()

        def write() -> None:
            results["final"] = self.log.last_validation()
            shown = model_figures(model, self.data.fixed_pages()) if len(self.data.val) else {}
            write_final(self.run_dir.final, model, self.experiment, results, shown)

        self.engine.on_main(write, TrainingFailed)
        if self.engine.is_main:
            self.log.write_final_model(self.run_dir.final)
            if self.log.has_projector and len(self.data.val):
                self.log.write_projection(self.images, project_latents(model, self.data))
        for line in summary_lines(self.run_dir.folder, results):
            self.log.print(line)
