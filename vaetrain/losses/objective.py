"""The training objective: weighted loss terms and the KL, one value per page."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vaetrain.losses.config import ObjectiveSettings
from vaetrain.losses.factory import LoadEncoder, build_term, no_encoder
from vaetrain.losses.kl import kl_loss, kl_per_page_and_dimension
from vaetrain.losses.terms import PIXEL_LOSSES, TERMS, LossTerm
from vaetrain.losses.weights import Weights, terms_in_use
from vaetrain.model.vae import VAEOutput

LOG_VARIANCE_BOUND = 5.0  # a learned variance lies within [e^-5, e^5]


class Objective(nn.Module):
    """Weighted sum of the loss terms and of beta times the KL (`kl_loss`), one value per page.

    With `loss.combine=learned` a loss term L of weight w becomes `w L / (2 v) + log(v) / 2`
    (Kendall et al. 2018, eq. 7) with a learned variance v.

    Attributes:
        terms: the loss terms whose weight is above 0 at any time of the training.
        log_variances: log v before it is bounded, a parameter (terms,); None if not learned.
    """

    def __init__(
        self, experiment: ObjectiveSettings, load_encoder: LoadEncoder = no_encoder
    ) -> None:
        """Build the loss functions; raises ConfigError if a network's weights are missing.

        Args:
            load_encoder: loads the page encoder of the run in `loss.perceptual_weights`.
        """
        super().__init__()
        self.loss, self.beta = experiment.loss, experiment.beta
        self.terms = terms_in_use(experiment)
        self.functions = {
            term: build_term(term, self.loss, load_encoder)
            for term in TERMS
            if (term.is_always_computed or term in self.terms) and not term.compares_pages
        }
        # Registered, so that the networks of losses move to the device with the objective.
        self.networks = nn.ModuleList(
            function for function in self.functions.values() if isinstance(function, nn.Module)
        )
        is_learned = self.loss.combine == "learned"
        self.log_variances = nn.Parameter(torch.zeros(len(self.terms))) if is_learned else None

    @property
    def compares_pages(self) -> bool:
        """Whether a term needs the `contrast` of a step's pages."""
        return any(term.compares_pages for term in self.terms)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the values that a call returns beside the losses."""
        always = [term.name for term in TERMS if term.is_always_computed]
        in_use = [term.name for term in self.terms]
        return tuple(dict.fromkeys(("loss", *always, "kl", *in_use)))

    def forward(
        self,
        output: VAEOutput,
        targets: Tensor,
        heights: Tensor,
        weights: Weights,
        shares: Tensor | None = None,
        contrast: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of each page and its parts.

        Args:
            output: of the model.
            targets: (B, 1, H, W) in [0, 1], 0 below the heights.
            heights: Long (B,), valid rows.
            shares: (B,), factors of the pages' loss terms, 1 on average; None: all 1.
            contrast: (B,), losses of the term that compares pages; None, as in an evaluation: it is
                left out, and its part is nan.

        Returns: the losses, float32 (B,), and parts by name, each (B,), detached: `loss`, the
            values of the loss terms (SSIM and MS-SSIM as similarities) and `kl` in nats per page.
        """
        values = {
            term: function(self._prediction(term, output), targets, heights)
            for term, function in self.functions.items()
        }
        if shares is not None:
            values = {term: _scale(term, value, shares) for term, value in values.items()}
        total = torch.zeros_like(next(iter(values.values())))
        for term in self.terms:
            if term.compares_pages:
                values[term] = torch.full_like(total, torch.nan) if contrast is None else contrast
        for index, term in enumerate(self.terms):
            if term.compares_pages and contrast is None:
                continue
            cost = 1 - values[term] if term.is_similarity else values[term]
            total = total + self._combine(index, weights.terms.get(term.name, 0.0) * cost)
        kl = kl_per_page_and_dimension(output)
        levels, width = output.ladder.shape[1], targets.shape[3]
        reduced = kl_loss(kl, self.beta, weights.capacity, heights, width, levels, weights.levels)
        # A controller's beta is float64; the loss keeps the dtype of the loss terms.
        total = (total + weights.beta * reduced).to(total.dtype)
        parts = {term.name: value for term, value in values.items()}
        parts |= {"kl": kl.sum(dim=1), "loss": total}
        return total, {name: part.detach() for name, part in parts.items()}

    @property
    def is_likelihood(self) -> bool:
        """Whether the pixel loss is the exact negative log likelihood of a page's pixels."""
        return PIXEL_LOSSES[self.loss.pixel].is_likelihood

    def bits_per_page(self, output: VAEOutput, targets: Tensor, heights: Tensor) -> Tensor:
        """Compute the bound on each page's code length in bits, of a likelihood: (B,).

        It is the negative evidence lower bound (Kingma and Welling 2014, eq. 3), estimated from one
        sample of the latents: the negative log likelihood plus the KL, in bits.

        Args:
            output: decoded from a sample of the posterior, of a ladder's levels too.
            targets, heights: as of a call.
        """
        (term,) = (term for term in self.functions if term.uses_logits)
        nll = self.functions[term](self._prediction(term, output), targets, heights)
        kl = kl_per_page_and_dimension(output).sum(dim=1)
        return (nll * (heights * targets.shape[3]) + kl) / math.log(2)

    def learned_weights(self) -> dict[str, float]:
        """Return the learned factor of each loss term beside its set weight. Synchronises."""
        if self.log_variances is None:
            return {}
        factors = (0.5 * torch.exp(-self._bounded_log_variances())).tolist()
        return {f"learned_{t.name}": factor for t, factor in zip(self.terms, factors, strict=True)}

    def _prediction(self, term: LossTerm, output: VAEOutput) -> Tensor:
        use_logits = term.uses_logits and self.loss.on_logits
        return output.logits if use_logits else output.reconstruction

    def _bounded_log_variances(self) -> Tensor:
        return LOG_VARIANCE_BOUND * torch.tanh(self.log_variances / LOG_VARIANCE_BOUND)

    def _combine(self, index: int, cost: Tensor) -> Tensor:
        if self.log_variances is None:
            return cost
        log_variance = self._bounded_log_variances()[index]
        return 0.5 * (torch.exp(-log_variance) * cost + log_variance)


def _scale(term: LossTerm, value: Tensor, shares: Tensor) -> Tensor:
    """Scale the cost of a term, (B,), by each page's share."""
    return 1 - shares * (1 - value) if term.is_similarity else shares * value
