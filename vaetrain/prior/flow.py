"""Rectified flow: a generative model of latent vectors.

Liu, Gong and Liu 2023, "Flow Straight and Fast". A network v(x, t) learns the mean velocity of
straight lines from a noise x_0 ~ N(0, I) to a data vector x_1, x_t = (1 - t) x_0 + t x_1, by
minimising |v(x_t, t) - (x_1 - x_0)|^2 (equation 1). Integrating v from t = 0 to 1 maps noise to
data. Page height and label are conditions; a label is dropped at random while fitting, so that it
can be left out, or emphasised, when sampling (Ho and Salimans 2021).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FREQUENCIES = 32  # of the sines and cosines that represent the time and the height
SAMPLING_STEPS = 32


class Flow(nn.Module):
    """Velocity network of latents and the statistics that they are normalised with.

    This class is the flow of vectors; `MapFlow` is that of maps.

    Attributes:
        shape: of the latent of the tallest page, (D,) or (D, h, w).
        labels: number of labels.
        mean, std: float32 (D,), of the latents that it was fitted to.
        max_height: rows; heights are given as a share of it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, shape: tuple[int, ...], labels: int, max_height: int, width: int, blocks: int
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.labels = labels
        self.max_height = max_height
        self.register_buffer("mean", torch.zeros(shape[0]))
        self.register_buffer("std", torch.ones(shape[0]))
        self.label = nn.Embedding(labels + 1, width)  # the last row: no label
        self.condition = nn.Sequential(
            nn.Linear(4 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.build_layers(width, blocks)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        nn.init.zeros_(self.label.weight)

    def build_layers(self, width: int, blocks: int) -> None:
        """Build the layers of `forward`: `enter`, `blocks` and `leave`."""
        self.enter = nn.Linear(self.shape[0], width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.leave = nn.Linear(width, self.shape[0])

    def set_statistics(self, mu: Tensor, deviation: Tensor, heights: Tensor) -> None:
        """Set `mean` and `std` to those of the means (N, D) of posteriors.

        Args:
            deviation: (N, D), of the posteriors.
            heights: Long (N,), rows of the pages.
        """
        self.mean.copy_(mu.mean(dim=0))
        self.std.copy_(mu.std(dim=0, correction=0).clamp(min=1e-3))

    def forward(self, x: Tensor, time: Tensor, heights: Tensor, labels: Tensor) -> Tensor:
        """Return the velocity of normalised latents, of their shape.

        Args:
            x: float (B, D).
            time: float (B,), 0 to 1.
            heights: Long (B,), rows of the pages, 1 to `max_height`.
            labels: Long (B,), 0 to `labels`; `labels` stands for no label.
        """
        condition = self.condition_of(time, heights, labels)
        x = self.enter(x)
        for block in self.blocks:
            x = block(x, condition)
        return self.leave(F.silu(x))

    def condition_of(self, time: Tensor, heights: Tensor, labels: Tensor) -> Tensor:
        """Return what the layers are modulated by, (B, width); arguments as of `forward`."""
        share = heights.to(time.dtype) / self.max_height
        encoded = torch.cat([waves(time), waves(share)], dim=1)
        return F.silu(self.condition(encoded) + self.label(labels))

    def loss(
        self, z: Tensor, noise: Tensor, time: Tensor, heights: Tensor, labels: Tensor
    ) -> Tensor:
        """Return the squared error of the velocity, mean over a page's values, (B,).

        Args:
            z: latents (B, D) or (B, D, h, w).
            noise: of N(0, I), of the same shape.
            time, heights, labels: as in `forward`.
        """
        target = (z - self._spread(self.mean)) / self._spread(self.std)
        position = torch.lerp(noise, target, time.view(-1, *self._ones))
        velocity = self(position, time, heights, labels)
        return self.page_mean((velocity - (target - noise)).square(), heights)

    def page_mean(self, values: Tensor, heights: Tensor) -> Tensor:
        """Return the mean of each page's values (B, D): (B,)."""
        return values.mean(dim=1)

    @torch.no_grad()
    def decode_noise(
        self, noise: Tensor, heights: Tensor, labels: Tensor, guidance: float = 1.0
    ) -> Tensor:
        """Map noise to latents of the same shape by `SAMPLING_STEPS` steps of Heun's method.

        Args:
            heights, labels: as in `forward`.
            guidance: factor of the difference that the label makes; 1: none.
        """
        x, step = noise, 1 / SAMPLING_STEPS
        for index in range(SAMPLING_STEPS):
            first = self._velocity(x, index * step, heights, labels, guidance)
            ahead = self._velocity(x + step * first, (index + 1) * step, heights, labels, guidance)
            x = x + step / 2 * (first + ahead)
        return x * self._spread(self.std) + self._spread(self.mean)

    @property
    def _ones(self) -> tuple[int, ...]:
        return (1,) * len(self.shape)

    def _spread(self, statistic: Tensor) -> Tensor:
        return statistic.view(-1, *self._ones[1:])

    def _velocity(
        self, x: Tensor, time: float, heights: Tensor, labels: Tensor, guidance: float
    ) -> Tensor:
        times = torch.full((len(x),), time, dtype=x.dtype, device=x.device)
        velocity = self(x, times, heights, labels)
        if guidance == 1:
            return velocity
        free = self(x, times, heights, torch.full_like(labels, self.labels))
        return torch.lerp(free, velocity, guidance)


class _Block(nn.Module):
    """Residual block whose scale, shift and gate depend on the condition.

    Peebles and Xie 2023, "Scalable Diffusion Models with Transformers", section 3.2 (adaLN-Zero).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 3 * width)
        self.layers = nn.Sequential(
            nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
        )
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift, gate = self.modulate(condition).chunk(3, dim=1)
        return x + gate * self.layers(self.norm(x) * (1 + scale) + shift)


def waves(x: Tensor) -> Tensor:
    """Return sines and cosines (B, 2 * FREQUENCIES) of numbers (B,) in 0 to 1."""
    exponent = torch.linspace(0, 1, FREQUENCIES, dtype=x.dtype, device=x.device)
    angle = x[:, None] * (math.pi / 2 * 100**exponent)
    return torch.cat([angle.sin(), angle.cos()], dim=1)
