"""Refined latents: gradient steps from the encoder's `mu` on the objective of the run.

An encoder computes the latent of a page in one pass. For pages unlike those of the training, this
is worse than the best latent that the decoder knows (the amortization gap, Cremer et al. 2018,
"Inference suboptimality in variational autoencoders"). Some steps of gradient descent find a better
one, as in semi-amortized VAEs (Kim et al. 2018, section 3), here after the training only.
"""

from __future__ import annotations

import math

import torch

from shards.reading.batch import Batch
from vaetrain.artifacts.final_model import load_encoder
from vaetrain.config.experiment import Experiment
from vaetrain.losses.objective import Objective
from vaetrain.model.vae import VAE, Posterior
from vaetrain.schedules import weights_at

STEPS = 40
# Of Adam, falling linearly to 0. Latents have a standard deviation of about 1.
LR = 0.12
BETAS = (0.9, 0.95)


class Refinement:
    """Refines the posteriors of a trained model, whose weights stay as they are."""

    def __init__(self, model: VAE, experiment: Experiment) -> None:
        """Build the objective, with the weights of the end of the training.

        Raises ConfigError if weights of a network of the losses are missing.
        """
        self.model = model
        self.objective = Objective(experiment, load_encoder).to(model.skip_gate.device)
        self.weights = weights_at(experiment, math.inf, math.inf)

    @torch.enable_grad()
    def __call__(
        self, posterior: Posterior, batch: Batch, steps: int, *, skips: bool = True
    ) -> Posterior:
        """Return posteriors with refined `mu`; a page's result does not depend on the others.

        Args:
            posterior: of the batch, on the model's device.
            skips: whether the page is decoded with skip connections, see `VAE.reconstruct`.
        """
        images, heights = batch.images(), batch.heights
        mu = posterior.mu.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([mu], LR, BETAS)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = LR * (1 - step / steps)
            output = self.model.reconstruct(
                posterior._replace(mu=mu), heights, batch.size, skips=skips
            )
            losses, _ = self.objective(output, images, heights, self.weights)
            (mu.grad,) = torch.autograd.grad(losses.sum(), mu)
            optimizer.step()
        return posterior._replace(mu=mu.detach())
