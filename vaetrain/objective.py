"""The one objective: per-sample losses, weighed, and the parts that are logged."""

from __future__ import annotations

from torch import Tensor

from vaetrain import losses
from vaetrain.config import BetaConfig, LossConfig
from vaetrain.model import VAEOutput

PIXEL_LOSSES = {"l1": losses.l1, "mse": losses.mse}


class Objective:
    """`recon * pixel loss + ssim * (1 - SSIM) + beta * KL`, each a value per page.

    The pixel loss is a mean over a page's pixels, SSIM a mean over its windows, and the KL a sum
    over the latent's dimensions, reduced as `beta.reduction` says.
    """

    def __init__(self, loss: LossConfig, beta: BetaConfig) -> None:
        self.loss = loss
        self.reduction = beta.reduction

    def __call__(
        self,
        output: VAEOutput,
        targets: Tensor,
        heights: Tensor,
        beta: float,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its parts.

        Args:
            output: reconstruction (B, 1, H, W), mu and logvar (B, D).
            targets: (B, 1, H, W) in [0, 1], 0 below the heights.
            heights: Long (B,), valid rows.
            beta: weight of the KL now.
            weights: (B,) of the pages' reconstruction and SSIM, 1 in the mean; None: all 1.

        Returns: the losses, float32 (B,), and parts by name, each (B,), detached: `loss`, `recon`,
            `ssim` (the similarity itself) and `kl` in nats per page.
        """
        recon = PIXEL_LOSSES[self.loss.pixel](output.reconstruction, targets, heights)
        similarity = losses.ssim(output.reconstruction, targets, heights)
        if weights is not None:
            recon, similarity = weights * recon, 1 - weights * (1 - similarity)
        nats = losses.gaussian_kl(output.mu, output.logvar).sum(dim=1)
        total = self.loss.recon * recon + self.loss.ssim * (1 - similarity)
        total = total + beta * self._reduced(nats, output.mu.shape[1], heights, targets.shape[3])
        parts = {"loss": total, "recon": recon, "ssim": similarity, "kl": nats}
        return total, {name: part.detach() for name, part in parts.items()}

    def _reduced(self, nats: Tensor, dimensions: int, heights: Tensor, width: int) -> Tensor:
        if self.reduction == "mean":
            return nats / dimensions
        if self.reduction == "pixel":
            return nats / (heights * width)
        return nats
