"""The training step on a GPU, tested without one: no synchronisation, no mixing of devices.

The trainer's forward path runs on fake CUDA tensors, which have shapes but no values. Whatever
needs a value on the host - `.item()`, a data-dependent shape - fails by itself; a dispatch mode
refuses tensors on the CPU.
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from launch.diagnosis.device_path import OnlyOnDevice
from tests.support.fake_devices import (
    CPU,
    CUDA,
    META,
    PAGES,
    ROWS,
    WIDTH,
    Step,
    a_batch,
    a_gan_trainer,
    a_step_on_a_gpu,
)
from vaetrain.model.vae import VAEOutput


def run(policy: str, *settings: str, pictures: bool = False, spoil=None):
    fake = FakeTensorMode()
    with fake, torch.device(CUDA):
        step = Step(policy, *settings)
        batch = a_batch(pictures)
    if spoil is not None:
        model = step.forward.model
        step.forward.model = lambda images, *rest: model(spoil(images), *rest)
    # Without a default device, a tensor made without one is made on the CPU, and refused.
    with fake, OnlyOnDevice():
        return step.losses(batch)


def check(total: torch.Tensor, parts: dict[str, torch.Tensor]) -> None:
    assert (total.shape, total.dtype, total.device) == ((PAGES,), torch.float32, CUDA)
    assert total.requires_grad
    assert all((part.shape, part.device) == ((PAGES,), CUDA) for part in parts.values())


GANS = {
    "hinge": (),
    "light-r1": ("gan.discriminator=light", "gan.regularizer=r1"),
    "lecam-features": ("gan.regularizer=lecam", "gan.feature_matching=1"),
    "two-updates": ("gan.loss=nonsaturating", "gan.updates=2"),
    "logits": ("loss.pixel=bce", "model.output=sigmoid"),
    "levels": ("loss.pixel=nll", "model.output=levels"),
}


@pytest.mark.parametrize("kind", GANS)
def test_forward_path_with_gan_stays_on_device(kind):
    settings = ("gan.enabled=true", "gan.start_epoch=0", *GANS[kind])
    fake = FakeTensorMode()
    with fake, torch.device(CUDA):
        step, gan = Step("none", *settings), a_gan_trainer(settings)
        batch = a_batch(False)
    gan.begin(2 * PAGES)
    with fake, OnlyOnDevice():
        check(*step.losses(batch, gan))


@pytest.mark.parametrize("kind", GANS)
def test_discriminator_steps_stay_on_device(kind, monkeypatch):
    """Two steps of two micro batches: loss terms, backward pass, discriminator, controllers.

    Autograd looks for a GPU where it meets a fake CUDA tensor, so the device is torch's `meta`.
    The model and the objective are left out, because autocast does not support `meta`.
    """
    with META:
        gan = a_gan_trainer(("gan.enabled=true", "gan.start_epoch=0", *GANS[kind]))
        empty = torch.empty(PAGES, 0)
        originals = torch.empty(PAGES, 1, ROWS, WIDTH)
        channels = 1 if gan.output is None else gan.output.channels
        logits = torch.empty(PAGES, channels, ROWS, WIDTH, requires_grad=True)
        heights = torch.empty(PAGES, dtype=torch.long)
        applied = torch.ones((), dtype=torch.bool)
    monkeypatch.setattr(gan.optimizer, "step", lambda: None)  # Adam's kernels need values
    with OnlyOnDevice(META):
        for step in (1, 2):
            gan.begin(step * 2 * PAGES)
            for _ in range(2):
                output = VAEOutput(originals, empty, empty, empty, logits)
                if gan.output is None:
                    output = output._replace(reconstruction=logits)
                output, fake = gan.fork(output, heights)
                page = output.reconstruction
                losses = (page - originals).square().mean(dim=(1, 2, 3))
                losses = losses + gan.generator_terms(page, fake, originals, heights)
                assert (losses.shape, losses.dtype) == ((PAGES,), torch.float32)
                losses.sum().backward()
            gan.step(applied)
    assert logits.grad.shape == logits.shape
    assert all(value.device == META for value in gan.tensors().values())


@pytest.mark.parametrize("pictures", [False, True])
@pytest.mark.parametrize("policy", ["none", "default", "strong", "randaugment", "trivialaugment"])
def test_forward_path_stays_on_device(policy, pictures):
    check(*run(policy, pictures=pictures))


@pytest.mark.parametrize("latent", ["vector", "spatial"])
@pytest.mark.parametrize("skips", ["none", "gated", "hierarchical"])
@pytest.mark.parametrize("attention", ["none", "cbam"])
@pytest.mark.parametrize("blocks", ["resnet", "densenet"])
def test_every_architecture_stays_on_device(blocks, attention, skips, latent):
    settings = {"blocks": blocks, "attention": attention, "skips": skips, "latent": latent}
    check(*run("none", *(f"model.{name}={value}" for name, value in settings.items())))


OUTPUT_SETTINGS = {
    "sigmoid": ("model.output=sigmoid", "loss.pixel=bce"),
    "levels": ("model.output=levels", "loss.pixel=nll"),
}


@pytest.mark.parametrize(
    ("net", "output"),
    [(net, "sigmoid") for net in ("features", "alex", "vgg", "squeeze")] + [("features", "levels")],
)
def test_every_loss_stays_on_device(net, output):
    weights = "null" if net == "features" else "random"
    settings = (f"loss.perceptual_net={net}", f"loss.perceptual_weights={weights}")
    terms = ("loss.perceptual=1", "loss.ms_ssim=1", "loss.gradient=1", "loss.combine=learned")
    total, parts = run("none", *settings, *terms, "beta.free_bits=0.1", *OUTPUT_SETTINGS[output])
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
def test_synchronisation_and_tensors_on_the_cpu_are_refused(spoil):
    with pytest.raises((AssertionError, RuntimeError)):
        run("none", spoil=spoil)


def test_every_weight_gets_a_gradient_without_values():
    """On fake CPU tensors: on fake CUDA tensors autograd requires a real CUDA context."""
    with FakeTensorMode():
        step = Step("strong", device=CPU)
        total, _ = step.losses(a_batch(False, CPU))
        total.sum().backward()
    for name, weight in step.model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.shape == weight.shape


# On a CPU, fake CUDA tensors stand in: test_forward_path_stays_on_device.
@pytest.mark.gpu
def test_step_never_synchronises_with_a_gpu():
    step, batch = a_step_on_a_gpu()
    step.losses(batch)[0].sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step.losses(batch)[0].sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
