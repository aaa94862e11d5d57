"""What runs on a GPU, proved where there is none: no copy to the host, no mixing of devices.

The path from a batch to its losses runs on fake CUDA tensors, which have shapes but no values. So
whatever would have to know a value on the host - `.item()`, a data-dependent shape - fails by
itself; a mode around it refuses tensors on the CPU.
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from shards.randomness import sample_keys
from shards.reading.batch import Batch
from vaetrain.augmentation.pipeline import Augment
from vaetrain.augmentation.policy import load_policy
from vaetrain.config.experiment import load_experiment
from vaetrain.engines.base import Engine
from vaetrain.gan.config import GanConfig
from vaetrain.gan.discriminators import build_discriminator
from vaetrain.gan.trainer import GanTrainer
from vaetrain.losses.objective import Objective
from vaetrain.losses.weights import Weights
from vaetrain.model.mixup import Mixup
from vaetrain.model.vae import VAE, VAEOutput, draw_noise
from vaetrain.schedules import Clock
from vaetrain.training.controllers import KLController

CUDA = torch.device("cuda", 0)
PAGES, BOXES, ROWS, WIDTH, LATENT = 4, 50, 128, 64, 8


class OnlyOnTheDevice(TorchDispatchMode):
    """Refuses every operation that takes or makes a tensor anywhere but on the device."""

    def __init__(self, device: torch.device = CUDA) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            if isinstance(value, torch.Tensor) and value.device.type != self.device.type:
                raise AssertionError(f"{function} has a tensor on the {value.device.type}")
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


class Step:
    """A training step's forward path, as the trainer goes it."""

    def __init__(self, policy: str, *settings: str, device: torch.device = CUDA) -> None:
        """Make its parts on the default device."""
        experiment = load_experiment(
            None, [f"augment.policy={policy}", f"model.latent_dim={LATENT}", *settings]
        )
        self.model = VAE(experiment.model, WIDTH, ROWS)
        self.augment = Augment(load_policy(experiment.augment))
        self.mixup = Mixup(0.4, device)
        self.objective = Objective(experiment)
        # Where the trainer says `.to(device)`, which fake parameters do not allow: LPIPS makes
        # its buffers on the CPU.
        for module in self.objective.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
        self.controller = KLController(experiment.beta, device)
        self.terms = {term.name: 0.5 for term in self.objective.terms}

    def losses(self, batch: Batch, spoil=lambda images: images):
        inputs, targets = self.augment(batch, 0)
        keys = sample_keys(0, batch.epochs, batch.ids, "eps")
        noise = draw_noise(self.model, keys, batch.size, gate=0.5, dropout=0.3)
        shares = self.mixup.shares(0, batch.epochs, batch.ids)
        output = self.model(spoil(inputs), batch.heights, noise, shares)
        weights = Weights(self.terms, beta=self.controller.beta, capacity=3.0)
        losses, parts = self.objective(output, targets, batch.heights, weights, 2 * shares)
        self.controller.update(parts["kl"].mean(), losses.isfinite().all())
        return losses, parts


def run(policy: str, *settings: str, pictures: bool = False, spoil=lambda images: images):
    fake = FakeTensorMode()
    with fake, torch.device(CUDA):
        step = Step(policy, *settings)
        batch = a_batch(pictures)
    # Without a default device now: a tensor made without one is made on the CPU, and refused.
    with fake, OnlyOnTheDevice():
        return step.losses(batch, spoil)


def check(total: torch.Tensor, parts: dict[str, torch.Tensor]) -> None:
    assert (total.shape, total.dtype, total.device) == ((PAGES,), torch.float32, CUDA)
    assert total.requires_grad
    assert all((part.shape, part.device) == ((PAGES,), CUDA) for part in parts.values())


GAMES = {
    "hinge": GanConfig(start_epoch=0.0),
    "light-r1": GanConfig(start_epoch=0.0, discriminator="light", regularizer="r1"),
    "lecam-features": GanConfig(start_epoch=0.0, regularizer="lecam", feature_matching=1.0),
    "two-updates": GanConfig(start_epoch=0.0, loss="nonsaturating", updates=2.0),
}


class OneRank:
    """What an adversary asks of an engine."""

    world_size, loss_scale = 1, 1.0
    average_gradients = Engine.average_gradients
    step_replicated = Engine.step_replicated

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values.clone()


@pytest.mark.parametrize("kind", GAMES)
def test_the_adversary_stays_on_the_device(kind, monkeypatch):
    """Its whole step: terms, backward, its own updates and all controllers, twice.

    Autograd looks for a GPU where it meets a fake CUDA tensor, so the device here is torch's own
    one without values.
    """
    meta, config = torch.device("meta"), GAMES[kind]
    with meta:
        clock = Clock(epoch_images=10, global_batch_size=2 * PAGES, horizon=100)
        judge = build_discriminator(config)
        game = GanTrainer(config, judge, clock, OneRank())
        nothing = torch.empty(PAGES, 0)
        pages = torch.empty(PAGES, 1, ROWS, WIDTH)
        reconstruction = torch.empty(PAGES, 1, ROWS, WIDTH, requires_grad=True)
        heights = torch.empty(PAGES, dtype=torch.long)
        applied = torch.ones((), dtype=torch.bool)
    monkeypatch.setattr(game.optimizer, "step", lambda: None)  # Adam's kernels need values
    with OnlyOnTheDevice(meta):
        for step in (1, 2):
            game.begin(step * 2 * PAGES)
            for _ in range(2):
                output = VAEOutput(reconstruction, nothing, nothing, nothing, reconstruction)
                output, theirs = game.fork(output, heights)
                ours = output.reconstruction
                losses = (ours - pages).square().mean(dim=(1, 2, 3))
                losses = losses + game.terms(ours, theirs, pages, heights)
                assert (losses.shape, losses.dtype) == ((PAGES,), torch.float32)
                losses.sum().backward()
            game.step(applied)
    assert reconstruction.grad.shape == pages.shape
    assert all(value.device == meta for value in game.tensors().values())


@pytest.mark.parametrize("pictures", [False, True])
@pytest.mark.parametrize("policy", ["none", "default", "strong", "randaugment", "trivialaugment"])
def test_the_forward_path_stays_on_the_device(policy, pictures):
    check(*run(policy, pictures=pictures))


@pytest.mark.parametrize("latent", ["vector", "spatial"])
@pytest.mark.parametrize("skips", ["none", "gated", "hierarchical"])
@pytest.mark.parametrize("attention", ["none", "cbam"])
@pytest.mark.parametrize("blocks", ["resnet", "densenet"])
def test_every_architecture_stays_on_the_device(blocks, attention, skips, latent):
    settings = {"blocks": blocks, "attention": attention, "skips": skips, "latent": latent}
    check(*run("none", *(f"model.{name}={value}" for name, value in settings.items())))


@pytest.mark.parametrize("net", ["features", "alex", "vgg", "squeeze"])
def test_every_loss_stays_on_the_device(net):
    weights = "null" if net == "features" else "random"
    settings = (f"loss.perceptual_net={net}", f"loss.perceptual_weights={weights}")
    terms = ("loss.perceptual=1", "loss.ms_ssim=1", "loss.gradient=1", "loss.combine=learned")
    total, parts = run(
        "none", *settings, *terms, "beta.free_bits=0.1", "model.output=sigmoid", "loss.pixel=bce"
    )
    check(total, parts)
    assert {"perceptual", "ms_ssim", "gradient"} <= set(parts)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda images: images.cpu().to(CUDA),
        lambda images: images * images.mean().item(),
        lambda images: images + torch.zeros(images.shape),
        lambda images: images * torch.tensor(1.0),
        lambda images: images[images > 0].sum() + images,
    ],
    ids=["cpu", "item", "made-on-the-cpu", "scalar-made-on-the-cpu", "data-dependent-shape"],
)
def test_what_would_hurt_on_a_gpu_is_refused(spoil):
    with pytest.raises((AssertionError, RuntimeError)):
        run("none", spoil=spoil)


def test_gradients_flow_back_to_every_weight_without_a_look_at_values():
    """On fake tensors of the CPU: on those of a GPU autograd asks for a real CUDA context."""
    cpu = torch.device("cpu")
    with FakeTensorMode():
        step = Step("strong", device=cpu)
        total, _ = step.losses(a_batch(False, cpu))
        total.sum().backward()
    for name, weight in step.model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.shape == weight.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_never_waited_for():
    torch.manual_seed(0)
    with torch.device(CUDA):
        step = Step("strong")
    batch = a_batch(pictures=False)
    for name in ("ids", "epochs", "tops", "owner", "boxes"):
        getattr(batch, name).zero_()
    batch.heights.fill_(100)
    batch.canvas.fill_(100)
    step.losses(batch)[0].sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step.losses(batch)[0].sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
