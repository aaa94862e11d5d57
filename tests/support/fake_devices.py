"""Fake CUDA tensors: parts of a training step on them, and modes that refuse mixed devices.

Fake tensors (`FakeTensorMode`) have shapes, dtypes and devices, but no values. Reading a value on
the host raises. A backward pass on fake CUDA tensors needs a CUDA driver, so `fake_backward` stands
in for it.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from shards.reading.batch import Batch
from tests.support.engines import FakeEngine
from vaetrain.augmentation.pipeline import Augment
from vaetrain.augmentation.policy import load_policy
from vaetrain.config.experiment import load_experiment
from vaetrain.gan.discriminators import build_discriminator
from vaetrain.gan.trainer import GanTrainer
from vaetrain.losses.objective import Objective
from vaetrain.losses.weights import Weights
from vaetrain.model.outputs import build_output
from vaetrain.model.vae import VAE
from vaetrain.schedules import Clock
from vaetrain.training.controllers import KLController
from vaetrain.training.step import ForwardStep

CPU, CUDA, META = torch.device("cpu"), torch.device("cuda", 0), torch.device("meta")
PAGES, BOXES, ROWS, WIDTH, LATENT = 4, 50, 128, 64, 8
SETTINGS = (f"model.latent_dim={LATENT}", "augment.mixup_alpha=0.4", "skips.dropout=0.3")


class NoMixedDevices(TorchDispatchMode):
    """Dispatch mode that refuses operations on tensors of two devices, except copies.

    As in CUDA's kernels, a scalar on the CPU may meet tensors on the GPU, but not the reverse.
    `FakeTensorMode` alone does not notice two devices in operations on lists of tensors.
    """

    COPIES = ("copy_", "_to_copy", "_foreach_copy_")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        name = function._schema.name.removeprefix("aten::")
        # The kernels of fused optimizers need step counts on the device, too.
        tensors = [t for t in tensors if t.dim() or t.is_cuda or name.startswith("_fused_")]
        kinds = {t.device.type for t in tensors}
        if name not in self.COPIES and len(kinds) > 1:
            raise AssertionError(f"{function} has tensors on {' and '.join(sorted(kinds))}")
        return function(*args, **(kwargs or {}))


def fake_backward(loss: Tensor) -> None:
    """Give every leaf that a loss depends on a gradient of its shape, without any backward pass."""
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        if hasattr(node, "variable"):
            node.variable.grad = torch.empty_like(node.variable)


def allow_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let autocast run on fake CUDA tensors; torch switches it off if there is no GPU."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)


class UsedDtypes(TorchDispatchMode):
    """Dispatch mode that records the floating-point dtypes of all results.

    Attributes:
        found: the dtypes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: set[torch.dtype] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        self.found |= {t.dtype for t in tensors if t.is_floating_point()}
        return result


def a_batch(pictures: bool, device: torch.device = CUDA) -> Batch:
    def on_device(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    long = torch.long
    return Batch(
        ids=on_device(PAGES, dtype=long),
        epochs=on_device(PAGES, dtype=long),
        heights=on_device(PAGES, dtype=long),
        size=(ROWS, WIDTH),
        tops=on_device(PAGES, dtype=long),
        canvas=on_device(PAGES, 2, dtype=torch.float32),
        boxes=None if pictures else on_device(BOXES, 4, dtype=torch.float32),
        owner=None if pictures else on_device(BOXES, dtype=long),
        pixels=on_device(PAGES, 1, ROWS, WIDTH, dtype=torch.uint8) if pictures else None,
    )


def a_step_on_a_gpu() -> tuple[Step, Batch]:
    """Return a step with the same weights every time, and a batch of real values for it."""
    torch.manual_seed(0)
    with torch.device(CUDA):
        step = Step("strong")
    batch = a_batch(pictures=False)
    for name in ("ids", "epochs", "tops", "owner", "boxes"):
        getattr(batch, name).zero_()
    batch.heights.fill_(100)
    batch.canvas.fill_(100)
    return step, batch


class Step:
    """The trainer's forward path and the KL controller, with parts on the default device."""

    def __init__(self, policy: str, *settings: str, device: torch.device = CUDA) -> None:
        experiment = load_experiment(None, [f"augment.policy={policy}", *SETTINGS, *settings])
        self.model = VAE(experiment.model, WIDTH, ROWS)
        objective = Objective(experiment)
        # The trainer's `.to(device)` does not work on fake parameters, and LPIPS makes its buffers
        # on the CPU.
        for module in objective.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
        self.forward = ForwardStep(
            experiment,
            model=self.model,
            vae=self.model,
            augment=Augment(load_policy(experiment.augment)),
            objective=objective,
            device=device,
        )
        self.controller = KLController(experiment.beta, device)
        self.terms = {term.name: 0.5 for term in objective.terms}

    def losses(self, batch: Batch, gan: GanTrainer | None = None):
        weights = Weights(self.terms, beta=self.controller.beta, capacity=3.0)
        losses, parts = self.forward(batch, weights, 0.5, gan)
        self.controller.update(parts["kl"].mean(), losses.isfinite().all())
        return losses, parts


def a_gan_trainer(settings: tuple[str, ...]) -> GanTrainer:
    experiment = load_experiment(None, settings)
    clock = Clock(epoch_images=10, global_batch_size=2 * PAGES, horizon=100)
    output = build_output(experiment.model) if experiment.loss.on_logits else None
    discriminator = build_discriminator(experiment.gan)
    return GanTrainer(experiment.gan, discriminator, clock, FakeEngine(), output=output)
