"""The one objective: per-sample losses, weighed, and the parts that are logged."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaetrain.losses import pixel, ssim
from vaetrain.losses.config import ObjectiveSettings
from vaetrain.losses.factory import LoadEncoder, build_perceptual, no_encoder
from vaetrain.losses.kl import kl_per_page_and_dimension
from vaetrain.losses.weights import Weights, terms_in_use
from vaetrain.model.vae import VAEOutput

PIXEL_LOSSES = {
    "l1": pixel.l1,
    "mse": pixel.mse,
    "charbonnier": pixel.charbonnier,
    "bce": pixel.bce_with_logits,
}
LOG_VARIANCE_BOUND = 5.0  # learned weights lie within a factor of e^5 of the set ones


class Objective(nn.Module):
    """The weighed sum of picture losses and KL, each a value per page.

    `recon` is the pixel loss, a mean over a page's pixels; `ssim` and `ms_ssim` weigh one less the
    similarity; `gradient` and `perceptual` are distances. beta multiplies the KL, a sum over the
    latent's dimensions reduced as `beta.reduction` says, of which `free_bits` nats a dimension cost
    nothing (Kingma et al. 2016, appendix C.8, here for each page by itself), or its distance from a
    capacity (Burgess et al. 2018, eq. 8).

    With `loss.combine=learned` each picture loss L of weight w becomes `w L / (2 v) + log(v) / 2`
    (Kendall et al. 2018, eq. 7) with a learned variance v.

    Attributes:
        terms: the picture losses that weigh something at any time.
        log_variances: log v before it is bounded, a parameter (terms,); None where not learned.
    """

    def __init__(
        self, experiment: ObjectiveSettings, load_encoder: LoadEncoder = no_encoder
    ) -> None:
        """Build the losses; raises ConfigError where a network's weights are missing.

        Args:
            load_encoder: the page encoder of a run, for `loss.perceptual_weights`.
        """
        super().__init__()
        self.loss, self.beta = experiment.loss, experiment.beta
        self.terms = terms_in_use(experiment)
        self.perceptual = (
            build_perceptual(self.loss, load_encoder) if "perceptual" in self.terms else None
        )
        learned = self.loss.combine == "learned"
        self.log_variances = nn.Parameter(torch.zeros(len(self.terms))) if learned else None

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of what a call returns beside the loss."""
        return tuple(dict.fromkeys(("loss", "recon", "ssim", "kl", *self.terms)))

    def forward(
        self,
        output: VAEOutput,
        targets: Tensor,
        heights: Tensor,
        weights: Weights,
        shares: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its parts.

        Args:
            output: what the model returned.
            targets: (B, 1, H, W) in [0, 1], 0 below the heights.
            heights: Long (B,), valid rows.
            shares: (B,), how much the pages' picture losses count, 1 in the mean; None: all 1.

        Returns: the losses, float32 (B,), and parts by name, each (B,), detached: `loss`, the
            picture losses in use, `ssim` and `ms_ssim` as similarities, and `kl` in nats per page.
        """
        parts = self.pictures(output, targets, heights)
        if shares is not None:
            parts = {name: _shared(name, value, shares) for name, value in parts.items()}
        total = torch.zeros_like(parts["recon"])
        for place, term in enumerate(self.terms):
            total = total + self._weighed(place, getattr(weights, term) * _cost(term, parts[term]))
        nats = kl_per_page_and_dimension(output)
        parts["kl"] = nats.sum(dim=1)
        charged = nats.clamp(min=self.beta.free_bits).sum(dim=1)
        if weights.capacity is not None:
            charged = (charged - weights.capacity).abs()
        reduced = self._reduced(charged, nats.shape[1], heights, targets.shape[3])
        # A controller's beta is float64; the loss stays what the pictures' are.
        total = (total + weights.beta * reduced).to(total.dtype)
        parts["loss"] = total
        return total, {name: part.detach() for name, part in parts.items()}

    def pictures(self, output: VAEOutput, targets: Tensor, heights: Tensor) -> dict[str, Tensor]:
        """The picture losses, (B,) each; `ssim` and `ms_ssim` as similarities."""
        page = output.reconstruction
        guess = output.logits if self.loss.pixel == "bce" else page
        parts = {
            "recon": PIXEL_LOSSES[self.loss.pixel](guess, targets, heights),
            "ssim": ssim.ssim(page, targets, heights),
        }
        if "ms_ssim" in self.terms:
            parts["ms_ssim"] = ssim.ms_ssim(page, targets, heights)
        if "gradient" in self.terms:
            parts["gradient"] = pixel.edges(page, targets, heights)
        if self.perceptual is not None:
            parts["perceptual"] = self.perceptual(page, targets, heights)
        return parts

    def learned_weights(self) -> dict[str, float]:
        """What each picture loss is multiplied by beside its set weight. A device sync."""
        if self.log_variances is None:
            return {}
        scales = (0.5 * torch.exp(-self._bounded())).tolist()
        return {f"learned_{term}": scale for term, scale in zip(self.terms, scales, strict=True)}

    def _bounded(self) -> Tensor:
        return LOG_VARIANCE_BOUND * torch.tanh(self.log_variances / LOG_VARIANCE_BOUND)

    def _weighed(self, place: int, cost: Tensor) -> Tensor:
        if self.log_variances is None:
            return cost
        log_variance = self._bounded()[place]
        return 0.5 * (torch.exp(-log_variance) * cost + log_variance)

    def _reduced(self, nats: Tensor, dimensions: int, heights: Tensor, width: int) -> Tensor:
        if self.beta.reduction == "mean":
            return nats / dimensions
        if self.beta.reduction == "pixel":
            return nats / (heights * width)
        return nats


def _cost(term: str, value: Tensor) -> Tensor:
    return 1 - value if term in ("ssim", "ms_ssim") else value


def _shared(name: str, value: Tensor, shares: Tensor) -> Tensor:
    return 1 - shares * (1 - value) if name in ("ssim", "ms_ssim") else shares * value
