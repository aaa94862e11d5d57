"""Perceptual distances, against lpips itself, and pages in a batch against pages alone."""

import lpips
import pytest
import torch

from vaetrain.artifacts.final_model import load_encoder, write_final
from vaetrain.config.experiment import load_experiment
from vaetrain.losses.config import LossConfig
from vaetrain.losses.factory import build_perceptual
from vaetrain.losses.objective import Objective
from vaetrain.model.vae import VAE
from vaetrain.settings import ConfigError

WIDTH = 96
NETS = ("alex", "vgg", "squeeze")
HEIGHTS = (96, 97, 130, 144)


def pages(heights: tuple[int, ...], seed: int) -> torch.Tensor:
    """Pages of some heights, padded with zeros to a common multiple of 16."""
    rows = -(-max(heights) // 16) * 16
    images = torch.rand(len(heights), 1, rows, WIDTH, generator=torch.Generator().manual_seed(seed))
    on_page = torch.arange(rows) < torch.tensor(heights)[:, None]
    return images * on_page[:, None, :, None]


@pytest.mark.parametrize("net", NETS)
def test_a_padded_batch_is_lpips_of_the_cropped_pages(net):
    torch.manual_seed(0)
    ours = build_perceptual(LossConfig(perceptual_net=net, perceptual_weights="random"))
    a, b = pages(HEIGHTS, 1), pages(HEIGHTS, 2)
    found = ours(a, b, torch.tensor(HEIGHTS))
    for number, height in enumerate(HEIGHTS):
        one = slice(number, number + 1)
        cropped = [x[one, :, :height].expand(-1, 3, -1, -1) for x in (a, b)]
        expected = ours.lpips(*cropped, normalize=True).flatten()
        torch.testing.assert_close(found[one], expected, rtol=1e-5, atol=1e-6)
    assert found.unique().numel() == len(HEIGHTS)


@pytest.mark.parametrize("net", NETS)
def test_a_backbone_is_loaded_from_its_file(net, tmp_path):
    torch.manual_seed(3)
    theirs = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    # As torchvision's own file names them; those it has beyond LPIPS' layers are not needed.
    weights = {"features." + n.partition(".")[2]: p for n, p in theirs.net.named_parameters()}
    path = tmp_path / "backbone.pth"
    torch.save(weights | {"classifier.1.weight": torch.zeros(3)}, path)
    ours = build_perceptual(LossConfig(perceptual_net=net, perceptual_weights=str(path)))
    a, b = pages((96,), 1), pages((96,), 2)
    expected = theirs(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1), normalize=True).flatten()
    torch.testing.assert_close(ours(a, b, torch.tensor([96])), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("net", NETS)
def test_missing_weights_are_named_and_so_is_their_place(net, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ConfigError) as refusal:
        build_perceptual(LossConfig(perceptual_net=net))
    (line,) = str(refusal.value).splitlines()
    assert line.startswith(f"loss.perceptual_net: {net} needs the weights {tmp_path}/hub/")
    assert "https://" in line


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", None])
def test_a_file_that_is_no_backbone_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "backbone.pth"
    path.write_bytes(content) if content is not None else torch.save({"weight": 1}, path)
    with pytest.raises(ConfigError) as refusal:
        build_perceptual(LossConfig(perceptual_net="alex", perceptual_weights=str(path)))
    (line,) = str(refusal.value).splitlines()
    assert line.startswith(f"{path}: is not a backbone's weights")


@pytest.mark.parametrize("net", [*NETS, "features"])
def test_its_gradient_is_finite_and_ends_with_the_page(net):
    weights = None if net == "features" else "random"
    ours = build_perceptual(LossConfig(perceptual_net=net, perceptual_weights=weights))
    heights = torch.tensor([40, 96])
    # Blank pages beside busy ones: features of length 0, whose root has no slope.
    guess = torch.zeros(2, 1, 96, WIDTH, requires_grad=True)
    ours(guess, pages((40, 96), 1), heights).sum().backward()
    assert guess.grad.isfinite().all()
    assert guess.grad[1].any()
    # Whatever lies below the page is no part of it; models write zeros there.
    below = guess.grad[0, :, 40:]
    assert not below.any() or net == "features"


def test_equal_pages_are_no_distance_apart():
    for net in ("alex", "features"):
        weights = None if net == "features" else "random"
        ours = build_perceptual(LossConfig(perceptual_net=net, perceptual_weights=weights))
        a = pages(HEIGHTS, 1)
        assert (ours(a, a.clone(), torch.tensor(HEIGHTS)) == 0).all()


def test_features_of_a_padded_batch_are_those_of_pages_alone():
    ours = build_perceptual(LossConfig())
    a, b = pages(HEIGHTS, 1), pages(HEIGHTS, 2)
    found = ours(a, b, torch.tensor(HEIGHTS))
    for number, height in enumerate(HEIGHTS):
        one, rows = slice(number, number + 1), -(-height // 16) * 16
        alone = ours(a[one, :, :rows], b[one, :, :rows], torch.tensor([height]))
        torch.testing.assert_close(found[one], alone, rtol=1e-5, atol=1e-6)


def test_features_are_the_named_runs_and_frozen(tmp_path):
    experiment = load_experiment(None, ["data.width=96", "data.max_height=144"])
    torch.manual_seed(5)
    model = VAE(experiment.model, 96, 144)
    write_final(tmp_path / "run" / "final", model, experiment, {}, {})
    experiment.loss.perceptual_weights = str(tmp_path / "run")
    experiment.loss.perceptual = 1.0
    ours = Objective(experiment, load_encoder).perceptual
    for name, parameter in model.encoder.named_parameters():
        assert torch.equal(dict(ours.encoder.named_parameters())[name], parameter)
    assert not any(parameter.requires_grad for parameter in ours.parameters())


def test_random_features_are_the_same_in_every_run():
    torch.manual_seed(1)
    first = build_perceptual(LossConfig()).state_dict()
    torch.manual_seed(2)
    second = build_perceptual(LossConfig()).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
