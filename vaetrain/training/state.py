"""Training state: what is updated and saved beside the model."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor, nn

from vaetrain.artifacts.checkpoint import Checkpoint
from vaetrain.config.experiment import Experiment
from vaetrain.engines.base import AVERAGE, Engine
from vaetrain.gan.discriminators import build_discriminator
from vaetrain.gan.trainer import GanTrainer
from vaetrain.losses.objective import Objective
from vaetrain.losses.weights import Weights
from vaetrain.schedules import Clock, lr_at, weights_at
from vaetrain.training.collapse import CollapseMonitor
from vaetrain.training.controllers import KLController, LearnedWeights
from vaetrain.training.ema import WeightEma


class TrainingState:
    """EMA of the weights, controllers, discriminator and collapse monitor.

    Attributes:
        ema: averaged weights of the model.
        controllers: by name: `beta` with `beta.schedule=controller`, `weights` with
            `loss.combine=learned`.
        gan: the discriminator with its optimizer; None unless `gan.enabled`.
        collapse: caps beta with `collapse.action=hold_beta`.
    """

    def __init__(
        self,
        experiment: Experiment,
        clock: Clock,
        engine: Engine,
        objective: Objective,
        skeleton: nn.Module,
    ) -> None:
        """Start from a model that the engine has prepared.

        Args:
            skeleton: a model of the same structure, see `WeightEma`.
        """
        self.experiment, self.clock, self.engine = experiment, clock, engine
        self.ema = WeightEma(engine, skeleton, experiment.train.ema_half_life_images)
        self.controllers: dict[str, KLController | LearnedWeights] = {}
        if experiment.beta.schedule == "controller":
            self.controllers["beta"] = KLController(experiment.beta, engine.device)
        if objective.log_variances is not None:
            self.controllers["weights"] = LearnedWeights(objective.log_variances)
        self.gan: GanTrainer | None = None
        if experiment.gan.enabled:
            discriminator = build_discriminator(experiment.gan).to(engine.device)
            self.gan = GanTrainer(
                experiment.gan,
                discriminator,
                clock,
                engine,
                output=engine.module.output if experiment.loss.on_logits else None,
            )
            engine.log(self.gan.plan)
        self.collapse = CollapseMonitor(
            experiment.collapse, starts_active=engine.module.starts_from_pca
        )

    def begin(self, images: int) -> None:
        """Begin the step that ends at `images`."""
        if self.gan is not None:
            self.gan.begin(images)

    @property
    def active_gan(self) -> GanTrainer | None:
        """The GAN trainer if the discriminator has started by the current step, else None."""
        has_started = self.gan is not None and self.gan.current is not None
        return self.gan if has_started else None

    def weights_at(self, epoch: float) -> Weights:
        """Return the weights of the losses at an epoch, beta as controller and cap have it now."""
        weights = weights_at(self.experiment, epoch, self.clock.epochs)
        beta, cap = weights.beta, self.collapse.cap
        if "beta" in self.controllers:
            beta = self.controllers["beta"].beta
        if cap is not None:
            beta = beta.clamp(max=cap) if isinstance(beta, Tensor) else min(beta, cap)
        return dataclasses.replace(weights, beta=beta)

    def lr_at(self, epoch: float) -> float:
        """Return the model's learning rate at an epoch."""
        return lr_at(self.experiment.lr, self.experiment.optimizer.lr, epoch, self.clock.epochs)

    def step(self, images: int, kl: Tensor) -> tuple[Tensor, Tensor]:
        """Step the model's optimizer, then everything in this state. Collective.

        Args:
            images: image count at the end of the step.
            kl: scalar, summed over this rank's pages of the global batch, in nats.

        Returns: the norm of the gradient before clipping, and whether every optimizer applied the
            step, a bool scalar on the device.
        """
        global_batch = self.experiment.train.global_batch_size
        learned = self.controllers.get("weights")
        if learned is not None:
            self.engine.average_gradients([learned.log_variances])
        norm = self.engine.step(self.lr_at(self.clock.epoch(images)))
        model_applied = applied = norm.isfinite()
        if learned is not None:
            applied = learned.step(self.engine, applied)
        if self.active_gan is not None:
            applied = self.active_gan.step(applied)
        if "beta" in self.controllers:
            mean_kl = self.engine.sum(kl) / global_batch
            self.controllers["beta"].update(mean_kl, model_applied, self.collapse.cap)
        self.ema.update(images, global_batch, model_applied)
        return norm, applied

    def json_state(self) -> dict[str, Any]:
        """Return what a checkpoint holds as JSON. Waits for the device."""
        state = {
            "collapse": self.collapse.state(),
            "controllers": {name: part.state() for name, part in self.controllers.items()},
        }
        if self.gan is not None:
            state["adversary"] = self.gan.state()
        return state

    def adversary(self) -> dict[str, Tensor]:
        """Return the live tensors of the checkpoint's part `adversary` by name."""
        return {} if self.gan is None else self.gan.tensors()

    def load(self, saved: Checkpoint) -> None:
        """Load a checkpoint of any engine and number of ranks."""
        self.engine.scatter(AVERAGE, saved.average)
        for name, controller in self.controllers.items():
            controller.load(saved.state["controllers"][name])
        if self.gan is not None:
            self.gan.load_tensors(saved.adversary)
            self.gan.load(saved.state["adversary"])
        self.collapse.load(saved.state["collapse"])
