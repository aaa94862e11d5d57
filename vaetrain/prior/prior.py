"""Prior of a model's samples: a flow of latents, heights and labels of pages, and their detail."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shards.randomness import normal, random_bits, uniform
from vaetrain.prior.detail import Detail
from vaetrain.prior.flow import Flow
from vaetrain.prior.map_flow import MapFlow
from vaetrain.settings import ConfigError

FLOW, DETAIL = "flow.", "detail."  # prefixes of tensors
GUIDANCE = 2.0  # of a label that is asked for, see `Flow.decode_noise`


@dataclass
class Prior:
    """A fitted prior.

    Attributes:
        flow: maps noise to latents.
        heights: Long (N,), rows of training pages, from which heights are drawn.
        page_labels: Long (N,), positions of the same pages' labels in `labels`; `len(labels)`: no
            label.
        labels: names of the labels.
        detail: draws the pixels of decoded samples; None: they stay as they are decoded.
    """

    flow: Flow
    heights: Tensor
    page_labels: Tensor
    labels: list[str]
    detail: Detail | None = None

    def sample(
        self, keys: Tensor, heights: Tensor | None = None, label: str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw latents and page heights; a page depends on its key alone.

        Args:
            keys: Long (B,), of `shards.randomness.sample_keys`, on the flow's device.
            heights: Long (B,), rows of the pages; None: drawn from those of the training pages,
                with the label where there is one.
            label: name of a label that the pages should have; None: any.

        Returns: float32 (B, D), or (B, D, h, w) with the rows of the tallest page, and Long (B,).
            Raises ConfigError for an unknown label.
        """
        number = self._number(label)
        if heights is None:
            heights = self._draw_heights(keys, number)
        labels = torch.full_like(keys, number)
        values = torch.arange(math.prod(self.flow.shape), device=keys.device)
        noise = normal(keys[:, None], values).unflatten(1, self.flow.shape)
        guidance = 1.0 if label is None else GUIDANCE
        return self.flow.decode_noise(noise, heights, labels, guidance), heights

    def _number(self, label: str | None) -> int:
        if label is None:
            return len(self.labels)
        if label not in self.labels:
            known = ", ".join(self.labels) or "none"
            raise ConfigError(f"label {label!r}: unknown; the prior's labels are: {known}")
        return self.labels.index(label)

    def _draw_heights(self, keys: Tensor, number: int) -> Tensor:
        heights = self.heights
        if number < len(self.labels):
            heights = heights[self.page_labels == number]
        position = uniform(random_bits(keys, torch.full_like(keys, -3)), torch.zeros_like(keys))
        return heights[(position * len(heights)).long()]

    def to(self, device: torch.device | str) -> Prior:
        """Return the prior on a device."""
        tensors = (each.to(device) for each in (self.heights, self.page_labels))
        detail = self.detail and self.detail.to(device)
        return Prior(self.flow.to(device), *tensors, self.labels, detail)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, as `load_prior` takes them."""
        pages = {"heights": self.heights, "page_labels": self.page_labels}
        parts = {FLOW: self.flow} | ({} if self.detail is None else {DETAIL: self.detail})
        return pages | {
            prefix + name: value
            for prefix, part in parts.items()
            for name, value in part.state_dict().items()
        }

    def description(self) -> dict[str, Any]:
        """Return what `load_prior` needs beside the tensors, for JSON."""
        flow = self.flow
        return {
            "kind": "flow",
            "labels": self.labels,
            "max_height": flow.max_height,
            "shape": flow.shape,
            "width": flow.enter.out_features,
            "blocks": len(flow.blocks),
            "detail_width": None if self.detail is None else self.detail.width,
        }


def build_flow(
    shape: tuple[int, ...], labels: int, max_height: int, width: int, blocks: int
) -> Flow:
    """Build a flow of latents of a shape, (D,) or (D, h, w), with random initial weights."""
    kind = Flow if len(shape) == 1 else MapFlow
    return kind(shape, labels, max_height, width, blocks)


def load_prior(description: dict[str, Any], tensors: dict[str, Tensor]) -> Prior:
    """Build a prior from `Prior.description` and `Prior.tensors`.

    Raises KeyError, TypeError or RuntimeError where they are damaged.
    """
    labels = [str(name) for name in description["labels"]]
    # Descriptions of older versions have no shape; their flows are of vectors.
    shape = description.get("shape", tensors["flow.mean"].shape)
    flow = build_flow(
        tuple(int(size) for size in shape),
        len(labels),
        int(description["max_height"]),
        int(description["width"]),
        int(description["blocks"]),
    )
    # Nor have descriptions of older versions a detail.
    width = description.get("detail_width")
    detail = None if width is None else Detail(int(width))
    for prefix, part in ((FLOW, flow), (DETAIL, detail)):
        if part is not None:
            names = [name for name in tensors if name.startswith(prefix)]
            part.load_state_dict({name.removeprefix(prefix): tensors[name] for name in names})
            part.eval().requires_grad_(False)
    return Prior(flow, tensors["heights"], tensors["page_labels"], labels, detail)
