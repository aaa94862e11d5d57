"""Rectified flow of maps: the prior of a spatial latent.

The velocity network is a transformer (Peebles and Xie 2023, "Scalable Diffusion Models with
Transformers") whose tokens are the rows of the map. A page is a stack of rows, and attention over
rows is cheap enough for a CPU. Rows below a page are no tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaetrain.prior.flow import Flow, waves

HEADS = 4


class MapFlow(Flow):
    """Flow of maps (B, D, h, w), 0 below the pages.

    Attributes:
        shape: (D, h, w) of the tallest page's map.
        stride: rows of a page per row of its map.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        labels: int,
        max_height: int,
        width: int,
        blocks: int,
    ) -> None:
        super().__init__(shape, labels, max_height, width, blocks)
        self.stride = -(-max_height // shape[1])

    def build_layers(self, width: int, blocks: int) -> None:
        """See `Flow.build_layers`."""
        values = self.shape[0] * self.shape[2]
        self.enter = nn.Linear(values, width)
        self.place = nn.Linear(2 * len(waves(torch.zeros(1))[0]), width)
        self.blocks = nn.ModuleList(_RowBlock(width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        self.leave = nn.Linear(width, values)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def set_statistics(self, mu: Tensor, deviation: Tensor, heights: Tensor) -> None:
        """Set `mean` and `std` to those of samples of posteriors, over all positions of all pages.

        The deviations of a map's posteriors are not small beside those of its means.

        Args:
            mu, deviation: (N, D, h, w).
            heights: Long (N,), rows of the pages.
        """
        valid = self.valid_rows(mu, heights)[:, None, :, None]
        count = valid.sum() * mu.shape[3]
        mean = (mu * valid).sum(dim=(0, 2, 3)) / count
        square = (mu - mean[:, None, None]).square() + deviation.square()
        variance = (square * valid).sum(dim=(0, 2, 3)) / count
        self.mean.copy_(mean)
        self.std.copy_(variance.sqrt().clamp(min=1e-3))

    def forward(self, x: Tensor, time: Tensor, heights: Tensor, labels: Tensor) -> Tensor:
        """Return the velocity (B, D, h, w) of normalised maps, 0 below the pages.

        Args:
            x: float (B, D, h, w), h at most that of the tallest page.
            time, heights, labels: as in `Flow.forward`.
        """
        condition = self.condition_of(time, heights, labels)
        valid = self.valid_rows(x, heights)
        tokens = self.enter(x.permute(0, 2, 1, 3).flatten(2)) + self._places(valid)
        for block in self.blocks:
            tokens = block(tokens, condition, valid)
        scale, shift = self.modulate(condition)[:, None].chunk(2, dim=2)
        tokens = self.norm(tokens) * (1 + scale) + shift
        rows = self.leave(tokens).unflatten(2, (x.shape[1], x.shape[3]))
        return rows.permute(0, 2, 1, 3) * valid[:, None, :, None]

    def page_mean(self, values: Tensor, heights: Tensor) -> Tensor:
        """Return the mean of each page's values (B, D, h, w), without those below it: (B,)."""
        valid = self.valid_rows(values, heights)
        rows = values.mean(dim=(1, 3)) * valid
        return rows.sum(dim=1) / valid.sum(dim=1)

    def decode_noise(
        self, noise: Tensor, heights: Tensor, labels: Tensor, guidance: float = 1.0
    ) -> Tensor:
        """Map noise (B, D, h, w) to maps with as many rows as the tallest page has, see `Flow`."""
        rows = -(-int(heights.max()) // self.stride)
        z = super().decode_noise(noise[:, :, :rows], heights, labels, guidance)
        return z * self.valid_rows(z, heights)[:, None, :, None]

    def valid_rows(self, x: Tensor, heights: Tensor) -> Tensor:
        """Return which rows of maps (B, D, h, w) belong to the pages: bool (B, h)."""
        row = torch.arange(x.shape[2], device=x.device)
        return row < (-(-heights // self.stride))[:, None]

    def _places(self, valid: Tensor) -> Tensor:
        """Encode each row's distance from the top and from the end of its page: (B, h, width)."""
        row = torch.arange(valid.shape[1], device=valid.device)
        from_end = (valid.sum(dim=1, keepdim=True) - 1 - row).clamp(min=0)
        share = torch.stack([row.expand_as(from_end), from_end]) / self.shape[1]
        top, end = waves(share.flatten()).unflatten(0, share.shape)
        return self.place(torch.cat([top, end], dim=2))


class _RowBlock(nn.Module):
    """Transformer block whose scales, shifts and gates depend on the condition (adaLN-Zero)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 6 * width)
        self.attend = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.layers = nn.Sequential(
            nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width)
        )
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, condition: Tensor, valid: Tensor) -> Tensor:
        scale, shift, gate, scale2, shift2, gate2 = self.modulate(condition)[:, None].chunk(6, 2)
        x = x + gate * self._attention(self.norm(x) * (1 + scale) + shift, valid)
        return x + gate2 * self.layers(self.norm(x) * (1 + scale2) + shift2)

    def _attention(self, x: Tensor, valid: Tensor) -> Tensor:
        heads = (3, HEADS, x.shape[2] // HEADS)
        query, key, value = self.attend(x).unflatten(2, heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=valid[:, None, None])
        return self.project(mixed.transpose(1, 2).flatten(2))
