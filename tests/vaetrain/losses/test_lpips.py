"""Masked LPIPS against the lpips package."""

import lpips
import pytest
import torch

from tests.vaetrain.losses.images import random_pages
from vaetrain.losses.lpips import MaskedLPIPS
from vaetrain.settings import ConfigError

WIDTH = 96
NETS = ("alex", "vgg", "squeeze")
HEIGHTS = (96, 97, 130, 144)


@pytest.mark.parametrize("net", NETS)
def test_a_padded_batch_has_the_lpips_of_the_cropped_pages(net):
    torch.manual_seed(0)
    masked = MaskedLPIPS(net, "random").requires_grad_(False)
    a, b = random_pages(HEIGHTS, WIDTH, 1), random_pages(HEIGHTS, WIDTH, 2)
    distances = masked(a, b, torch.tensor(HEIGHTS))
    for number, height in enumerate(HEIGHTS):
        one = slice(number, number + 1)
        cropped = [x[one, :, :height].expand(-1, 3, -1, -1) for x in (a, b)]
        expected = masked.lpips(*cropped, normalize=True).flatten()
        torch.testing.assert_close(distances[one], expected, rtol=1e-5, atol=1e-6)
    assert distances.unique().numel() == len(HEIGHTS)


@pytest.mark.parametrize("net", NETS)
def test_a_backbone_is_loaded_from_its_file(net, tmp_path):
    torch.manual_seed(3)
    original = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    # Names as in torchvision's file, which has more layers than LPIPS uses.
    weights = {"features." + n.partition(".")[2]: p for n, p in original.net.named_parameters()}
    path = tmp_path / "backbone.pth"
    torch.save(weights | {"classifier.1.weight": torch.zeros(3)}, path)
    masked = MaskedLPIPS(net, str(path))
    a, b = random_pages((96,), WIDTH, 1), random_pages((96,), WIDTH, 2)
    expected = original(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1), normalize=True).flatten()
    torch.testing.assert_close(masked(a, b, torch.tensor([96])), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", None])
def test_an_unreadable_backbone_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "backbone.pth"
    path.write_bytes(content) if content is not None else torch.save({"weight": 1}, path)
    with pytest.raises(ConfigError) as error:
        MaskedLPIPS("alex", str(path))
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{path}: cannot be read as the weights of a backbone")


@pytest.mark.parametrize("net", NETS)
def test_gradients_are_finite_and_zero_in_the_padding(net):
    masked = MaskedLPIPS(net, "random")
    heights = (40, 96)
    # On a blank page features have length 0, at which a square root has no finite gradient.
    prediction = torch.zeros(2, 1, 96, WIDTH, requires_grad=True)
    masked(prediction, random_pages(heights, WIDTH, 1), torch.tensor(heights)).sum().backward()
    assert prediction.grad.isfinite().all()
    assert prediction.grad[1].any()
    assert not prediction.grad[0, :, 40:].any()


def test_equal_pages_have_distance_zero():
    pages = random_pages(HEIGHTS, WIDTH, 1)
    distances = MaskedLPIPS("alex", "random")(pages, pages.clone(), torch.tensor(HEIGHTS))
    assert (distances == 0).all()
