"""Plain PyTorch loops on batches that are on the device, as a baseline of the trainer's step.

They have the same model, losses, clipping and optimizer, and nothing else. `unmasked` replaces the
masked layers of a model, so that the difference is the cost of masking. `textbook` also replaces
the project's own convolutions, so that all layers are torch's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaetrain.engines.model_options import apply_options
from vaetrain.engines.optimizers import build_optimizer, clip_gradients
from vaetrain.model import decoder, encoder, latents, layers, linear_path, outputs, skips
from vaetrain.model.attention import MaskedCBAM
from vaetrain.model.masked import MaskedGroupNorm, PyramidPool, Rows
from vaetrain.model.vae import VAE, Noise
from vaetrain.training.build import Run

MASKING_MODULES = (decoder, encoder, latents, layers, linear_path, outputs, skips)  # with `keep`

Replacement = Callable[[nn.Module], contextlib.AbstractContextManager[None]]


class ResidentBatch(NamedTuple):
    """Micro batch on the device.

    Attributes:
        inputs, targets: float32 (B, 1, H, W).
        heights: Long (B,), rows of each page.
        noise: the noise of the forward pass.
    """

    inputs: Tensor
    targets: Tensor
    heights: Tensor
    noise: Noise


class BareLoop:
    """Minimal training loop: forward, loss, backward, clipping, optimizer step."""

    def __init__(self, run: Run, replace: Replacement = lambda _: contextlib.nullcontext()):
        """Start from the weights of a run.

        Args:
            replace: replaces layers of the model; returns a context manager for its run.
        """
        experiment, engine = run.experiment, run.engine
        self.accumulation = run.batching.accumulation
        self.objective, self.weights = run.objective, run.state.weights_at(0.0)
        self.clip_norm = experiment.optimizer.clip_norm
        width, max_height = experiment.data.width, experiment.data.max_height
        self.model = VAE(experiment.model, width, max_height).to(engine.device)
        self.model.load_state_dict(dict(engine.weights()))
        self.replaced = replace(self.model)
        apply_options(
            self.model,
            engine.device,
            precision=engine.precision,
            channels_last=experiment.train.channels_last,
            checkpoint_activations=experiment.train.checkpoint_activations,
            compile=experiment.train.compile,
        )
        self.optimizer = build_optimizer(self.model, experiment.optimizer)

    def train(self, batches: Sequence[ResidentBatch]) -> None:
        """Take a step after every `accumulation` micro batches."""
        with self.replaced:
            for number, batch in enumerate(batches, start=1):
                self._loss(batch).backward()
                if number % self.accumulation == 0:
                    clip_gradients(self.model.parameters(), self.clip_norm)
                    self.optimizer.step()
                    self.optimizer.zero_grad()

    def _loss(self, batch: ResidentBatch) -> Tensor:
        output = self.model(batch.inputs, batch.heights, batch.noise)
        losses, _ = self.objective(output, batch.targets, batch.heights, self.weights)
        return losses.mean() / self.accumulation


class GroupNorm(nn.GroupNorm):
    """Torch's group norm, whose moments include the padding."""

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """Normalise (B, C, H, W)."""
        return super().forward(x)


class Pool(nn.Module):
    """Torch's adaptive average pooling to each level's bins."""

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """Pool (B, C, H, W) to (B, C * bins)."""
        pooled = [F.adaptive_avg_pool2d(x, level).flatten(1) for level in self.levels]
        return torch.cat(pooled, dim=1)


class CBAM(nn.Module):
    """Convolutional block attention (Woo et al. 2018) without masks, with given layers."""

    def __init__(self, masked: MaskedCBAM) -> None:
        super().__init__()
        self.squeeze, self.excite, self.locate = masked.squeeze, masked.excite, masked.locate

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """Normalise (B, C, H, W)."""
        hidden = torch.relu(self.squeeze(torch.stack([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))])))
        x = x * torch.sigmoid(self.excite(hidden).sum(dim=0))[:, :, None, None]
        profile = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.locate(profile))


class Conv2d(nn.Conv2d):
    """Convolution after upsampling and concatenation with the page."""

    def forward(self, x: Tensor, page: Tensor | None = None, rows: Rows | None = None) -> Tensor:
        """See `layers.Conv2d`."""
        if page is not None:
            x = torch.cat([F.interpolate(x, scale_factor=2), page], dim=1)
        return super().forward(x)


def unmasked(vae: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Replace a model's masked layers by torch's own; return the context manager for its use.

    The result for a page then depends on the other pages of the batch, so this is for timing only.
    """
    _replace(vae, MaskedGroupNorm, _group_norm)
    _replace(vae, PyramidPool, lambda masked: Pool(masked.levels))
    _replace(vae, MaskedCBAM, CBAM)
    return MaskingDisabled()


def textbook(vae: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Replace all of a model's own layers by torch's; return the context manager for its use."""
    _replace(vae, layers.Conv2d, _conv)
    return unmasked(vae)


def _replace(vae: nn.Module, kind: type[nn.Module], by: Callable[[Any], nn.Module]) -> None:
    for parent in list(vae.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, kind):
                setattr(parent, name, by(layer))


def _group_norm(masked: MaskedGroupNorm) -> GroupNorm:
    plain = GroupNorm(masked.groups, len(masked.weight), masked.eps)
    plain.weight, plain.bias = masked.weight, masked.bias
    return plain


def _conv(own: layers.Conv2d) -> Conv2d:
    sizes = (own.in_channels, own.out_channels, own.kernel_size, own.stride, own.padding)
    plain = Conv2d(*sizes, bias=own.bias is not None)
    plain.weight, plain.bias = own.weight, own.bias
    return plain


class MaskingDisabled:
    """Reusable context manager in which `keep` masks nothing."""

    def __enter__(self) -> None:
        with contextlib.ExitStack() as stack:
            for module in MASKING_MODULES:
                stack.enter_context(mock.patch.object(module, "keep", lambda x, rows: x))
            # Only now: if a module has no `keep`, the others get theirs back.
            self.stack = stack.pop_all()

    def __exit__(self, *_: object) -> None:
        self.stack.close()
