"""Plain PyTorch loops on batches that lie on the device: what a trainer's step is measured against.

The same model, losses, clipping and optimizer, and nothing else. `unmasked` takes a model's masks
away: what they cost is the difference. `textbook` takes away whatever its layers do in ways of
their own: what is left is what anyone would have written.
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
from vaetrain.model import blocks, decoder, encoder, linear_path, skips
from vaetrain.model import vae as vae_model
from vaetrain.model.masked import MaskedCBAM, MaskedGroupNorm, PyramidPool, Rows
from vaetrain.model.vae import VAE, Noise
from vaetrain.training.trainer import Trainer

KEEPERS = (blocks, decoder, encoder, linear_path, skips, vae_model)  # modules that call `keep`

Change = Callable[[nn.Module], contextlib.AbstractContextManager[None]]


class Resident(NamedTuple):
    """A micro batch on the device.

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
    """A training loop as anyone would write it down: forward, loss, backward, clip, step."""

    def __init__(self, training: Trainer, change: Change = lambda _: contextlib.nullcontext()):
        """Start from the trainer's weights.

        Args:
            change: takes the model, and returns what to enter around its training.
        """
        experiment, engine = training.experiment, training.engine
        self.accumulation = training.batching.accumulation
        self.objective, self.weights = training.objective, training.state.weights_at(0.0)
        self.clip_norm = experiment.optimizer.clip_norm
        width, max_height = experiment.data.width, experiment.data.max_height
        self.model = VAE(experiment.model, width, max_height).to(engine.device)
        self.model.load_state_dict(dict(engine.weights()))
        self.changed = change(self.model)
        apply_options(
            self.model,
            engine.device,
            precision=engine.precision,
            channels_last=training.settings.channels_last,
            checkpoint_activations=training.settings.checkpoint_activations,
            compile=training.settings.compile,
        )
        self.optimizer = build_optimizer(self.model, experiment.optimizer)

    def train(self, batches: Sequence[Resident]) -> None:
        """Take a step with every `accumulation` micro batches."""
        with self.changed:
            for number, batch in enumerate(batches, start=1):
                self._loss(batch).backward()
                if number % self.accumulation == 0:
                    clip_gradients(self.model.parameters(), self.clip_norm)
                    self.optimizer.step()
                    self.optimizer.zero_grad()

    def _loss(self, batch: Resident) -> Tensor:
        output = self.model(batch.inputs, batch.heights, batch.noise)
        losses, _ = self.objective(output, batch.targets, batch.heights, self.weights)
        return losses.mean() / self.accumulation


class GroupNorm(nn.GroupNorm):
    """torch's own, with the moments of all rows."""

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return super().forward(x)


class Pool(nn.Module):
    """torch's adaptive pooling to each level's bins."""

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """(B, C, H, W) to (B, C * bins)."""
        pooled = [F.adaptive_avg_pool2d(x, level).flatten(1) for level in self.levels]
        return torch.cat(pooled, dim=1)


class CBAM(nn.Module):
    """Convolutional block attention (Woo et al. 2018) over all rows, with a masked one's layers."""

    def __init__(self, masked: MaskedCBAM) -> None:
        super().__init__()
        self.squeeze, self.excite, self.locate = masked.squeeze, masked.excite, masked.locate

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """(B, C, H, W) to the same shape."""
        hidden = torch.relu(self.squeeze(torch.stack([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))])))
        x = x * torch.sigmoid(self.excite(hidden).sum(dim=0))[:, :, None, None]
        profile = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.locate(profile))


class Conv2d(nn.Conv2d):
    """A convolution of maps that are enlarged, and put into one tensor with the page first."""

    def forward(self, x: Tensor, page: Tensor | None = None, rows: Rows | None = None) -> Tensor:
        """As `blocks.Conv2d`."""
        if page is not None:
            x = torch.cat([F.interpolate(x, scale_factor=2), page], dim=1)
        return super().forward(x)


def unmasked(vae: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Put torch's own layers in place of a model's masked ones; around its use, no map is cleared.

    Pages in a batch of others then are not what they are alone: it is to be measured, not used.
    """
    _replace(vae, MaskedGroupNorm, _group_norm)
    _replace(vae, PyramidPool, lambda masked: Pool(masked.levels))
    _replace(vae, MaskedCBAM, CBAM)
    return NothingKept()


def textbook(vae: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Put torch's own layers in place of all of a model's; around its use, no map is cleared."""
    _replace(vae, blocks.Conv2d, _conv)
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


def _conv(own: blocks.Conv2d) -> Conv2d:
    sizes = (own.in_channels, own.out_channels, own.kernel_size, own.stride, own.padding)
    plain = Conv2d(*sizes, bias=own.bias is not None)
    plain.weight, plain.bias = own.weight, own.bias
    return plain


class NothingKept:
    """A context, entered as often as one likes, in which `keep` returns what it is given."""

    def __enter__(self) -> None:
        self.stack = contextlib.ExitStack()
        for module in KEEPERS:
            self.stack.enter_context(mock.patch.object(module, "keep", lambda x, rows: x))

    def __exit__(self, *_: object) -> None:
        self.stack.close()
