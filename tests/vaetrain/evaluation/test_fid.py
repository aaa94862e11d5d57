"""Fréchet distance, compared with scipy's matrix root, and its feature networks."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from vaetrain.evaluation.fid import (
    INCEPTION,
    Gaussian,
    InceptionFeatures,
    RandomFeatures,
    build_features,
    frechet_distance,
    kernel_distance,
)
from vaetrain.settings import ConfigError


def two_sets(n: int, m: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    first = torch.randn(n, columns, generator=generator, dtype=torch.float64)
    second = torch.randn(m, columns, generator=generator, dtype=torch.float64)
    return first, 0.5 + second @ mixed


def distance(first: torch.Tensor, second: torch.Tensor) -> float:
    return frechet_distance(Gaussian.from_features(first), Gaussian.from_features(second))


@pytest.mark.parametrize(("n", "m"), [(50, 41), (41, 9), (7, 6)])
def test_distance_equals_the_formula_with_scipys_matrix_root(n, m):
    """Fewer pages than dimensions make the covariances singular."""
    first, second = two_sets(n, m, 12)
    one, two = (np.cov(features.numpy(), rowvar=False) for features in (first, second))
    shift = (first.mean(0) - second.mean(0)).square().sum().item()
    root = np.trace(sqrtm(one @ two)).real
    expected = shift + np.trace(one) + np.trace(two) - 2 * root
    assert distance(first, second) == pytest.approx(expected, rel=1e-6)
    assert distance(second, first) == pytest.approx(expected, rel=1e-6)


def test_distance_in_one_dimension():
    first = torch.randn(30, 1, generator=torch.Generator().manual_seed(1))
    second = 3 * first + 2
    expected = (first.mean() - second.mean()) ** 2 + (first.std() - second.std()) ** 2
    assert distance(first, second) == pytest.approx(expected.item(), rel=1e-5)


def test_distance_of_a_set_from_itself_is_zero():
    features = torch.randn(20, 40, generator=torch.Generator().manual_seed(2))
    assert distance(features, features) == pytest.approx(0, abs=1e-12)
    assert distance(features, features + 1) == pytest.approx(40, rel=1e-6)


def padded_pages() -> tuple[torch.Tensor, torch.Tensor]:
    heights = torch.tensor([96, 50])
    images = torch.rand(2, 1, 96, 64, generator=torch.Generator().manual_seed(0))
    return images * (torch.arange(96) < heights[:, None])[:, None, :, None], heights


def test_without_inception_the_features_are_random_and_reproducible(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    images, heights = padded_pages()
    torch.manual_seed(0)
    network = build_features()
    torch.manual_seed(1)
    again = build_features()(images, heights)
    features = network(images, heights)
    assert network.metric == "fid_random"
    assert features.shape == (2, network.columns)
    assert torch.equal(features, again)
    alone = network(images[1:, :, :64], heights[1:])
    torch.testing.assert_close(features[1:], alone, rtol=1e-4, atol=1e-6)
    assert all(stage.abs().mean() > 0.01 for stage in features.split([32, 64, 128, 256], dim=1))


def test_random_features_distinguish_pages_of_equal_brightness():
    """Vertical stripes, horizontal stripes and one grey page."""
    network = RandomFeatures()
    stripes = (torch.arange(64) % 4 < 2).float().expand(64, 64)
    pages = torch.stack([stripes, stripes.T, torch.full((64, 64), 0.5)])[:, None]
    features = network(pages, torch.tensor([64, 64, 64]))
    assert torch.linalg.matrix_rank(features, rtol=0.05) == 3


@pytest.mark.slow  # 90 MB of weights are created, written and read
def test_inception_is_applied_to_each_page_without_padding(monkeypatch, tmp_path):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / INCEPTION
    path.parent.mkdir(parents=True)
    torch.save({}, path)
    with monkeypatch.context() as patched:
        patched.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        reference = FeatureExtractorInceptionV3(
            "any", ["2048"], feature_extractor_weights_path=path
        )
    torch.save(reference.state_dict(), path)
    images, heights = padded_pages()
    network = build_features()
    features = network(images, heights)
    assert network.metric == "fid"
    assert features.shape == (2, network.columns)
    for page, height in enumerate(heights):
        picture = (images[page : page + 1, :, :height] * 255).round().byte()
        (expected,) = reference(picture.repeat(1, 3, 1, 1))
        torch.testing.assert_close(features[page : page + 1], expected)


@pytest.mark.parametrize("content", [b"", {"fc.weight": torch.zeros(1)}, print])
def test_a_damaged_inception_file_is_refused_with_one_line(tmp_path, content):
    path = tmp_path / "inception.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ConfigError) as refusal:
        InceptionFeatures(path)
    (line,) = str(refusal.value).splitlines()
    assert line.startswith(f"{path}: not the weights of Inception")


def test_kernel_distance_equals_its_definition_and_is_unbiased():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(n, 5, generator=generator).double() for n in (7, 9))

    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a @ b / 5 + 1) ** 3)

    within = [
        sum(kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j)
        / (len(x) * (len(x) - 1))
        for x in (first, second)
    ]
    across = sum(kernel(a, b) for a in first for b in second) / (7 * 9)
    assert kernel_distance(first, second) == pytest.approx(sum(within) - 2 * across)
    halves = [
        kernel_distance(*torch.randn(2, 8, 5, generator=generator).double()) for _ in range(500)
    ]
    error = np.std(halves) / 500**0.5
    assert abs(np.mean(halves)) < 4 * error
