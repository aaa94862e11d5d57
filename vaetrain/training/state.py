"""What learns beside the model from every global step, and is saved with it."""

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
    """The weights' average, the losses' weights, the discriminator, and the watch over collapse.

    Attributes:
        average: of the model's weights.
        controllers: of beta, and of learned weights, where the experiment has them.
        adversary: the discriminator's side of a VAE-GAN; None without one.
        collapse: holds the cap on beta.
    """

    def __init__(
        self,
        experiment: Experiment,
        clock: Clock,
        engine: Engine,
        objective: Objective,
        skeleton: nn.Module,
    ) -> None:
        """Begin beside a model that the engine has prepared.

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
                at_logits=experiment.loss.on_logits,
            )
            engine.log(self.gan.plan)
        self.collapse = CollapseMonitor(
            experiment.collapse, starts_awake=engine.module.starts_from_pca
        )

    def begin(self, images: int) -> None:
        """Open the step that ends at `images`."""
        if self.gan is not None:
            self.gan.begin(images)

    @property
    def active_gan(self) -> GanTrainer | None:
        """The adversary, if it plays in the step under way."""
        plays = self.gan is not None and self.gan.current is not None
        return self.gan if plays else None

    def weights_at(self, epoch: float) -> Weights:
        """What multiplies each loss at an epoch."""
        weights = weights_at(self.experiment, epoch, self.clock.epochs)
        beta, cap = weights.beta, self.collapse.cap
        if "beta" in self.controllers:
            beta = self.controllers["beta"].beta
        if cap is not None:
            beta = beta.clamp(max=cap) if isinstance(beta, Tensor) else min(beta, cap)
        return dataclasses.replace(weights, beta=beta)

    def lr_at(self, epoch: float) -> float:
        """The model's learning rate at an epoch."""
        return lr_at(self.experiment.lr, self.experiment.optimizer.lr, epoch, self.clock.epochs)

    def step(self, images: int, kl: Tensor) -> tuple[Tensor, Tensor]:
        """Let the model and all of these take the step that ends at `images`.

        Args:
            kl: the KL of this rank's pages, their sum.

        Returns: the gradient's norm before clipping, and whether the step was applied, a bool
        """
        global_batch = self.experiment.train.global_batch_size
        learned = self.controllers.get("weights")
        if learned is not None:
            self.engine.average_gradients([learned.log_variances])
        norm = self.engine.step(self.lr_at(self.clock.epoch(images)))
        moved = applied = norm.isfinite()
        if learned is not None:
            applied = learned.step(self.engine, applied)
        if self.active_gan is not None:
            applied = self.active_gan.step(applied)
        if "beta" in self.controllers:
            kl = self.engine.sum(kl) / global_batch
            self.controllers["beta"].update(kl, moved, self.collapse.cap)
        self.ema.update(images, global_batch, moved)
        return norm, applied

    def json_state(self) -> dict[str, Any]:
        """What a checkpoint says of them in JSON; a device sync."""
        state = {
            "collapse": self.collapse.state(),
            "controllers": {name: part.state() for name, part in self.controllers.items()},
        }
        if self.gan is not None:
            state["adversary"] = self.gan.state()
        return state

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint has of them in tensors, by its part. Collective."""
        adversary = {} if self.gan is None else self.gan.tensors()
        return {"average": self.engine.collect(self.ema.tensors()), "adversary": adversary}

    def load(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint, on any engine and number of ranks."""
        self.engine.scatter(AVERAGE, saved.average)
        for name, controller in self.controllers.items():
            controller.load(saved.state["controllers"][name])
        if self.gan is not None:
            self.gan.load_tensors(saved.adversary)
            self.gan.load(saved.state["adversary"])
        self.collapse.load(saved.state["collapse"])
