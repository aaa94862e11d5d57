"""The Fréchet distance against scipy's matrix root, and what its networks see of a page."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from vaetrain.evaluation.fid import (
    INCEPTION,
    InceptionFeatures,
    RandomFeatures,
    build_features,
    frechet_distance,
)
from vaetrain.settings import ConfigError


def two_sets(ours: int, theirs: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    mixed = torch.randn(columns, columns, generator=draw, dtype=torch.float64)
    first = torch.randn(ours, columns, generator=draw, dtype=torch.float64)
    return first, 0.5 + torch.randn(theirs, columns, generator=draw, dtype=torch.float64) @ mixed


@pytest.mark.parametrize(("ours", "theirs"), [(50, 41), (41, 9), (7, 6)])
def test_it_is_the_formula_with_scipys_root(ours, theirs):
    """Also where fewer pages than dimensions make the covariances singular."""
    first, second = two_sets(ours, theirs, 12)
    one, two = (np.cov(features.numpy(), rowvar=False) for features in (first, second))
    shift = (first.mean(0) - second.mean(0)).square().sum().item()
    root = np.trace(sqrtm(one @ two)).real
    expected = shift + np.trace(one) + np.trace(two) - 2 * root
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-6)


def test_of_one_dimension_it_is_a_difference_of_means_and_deviations():
    ours = torch.randn(30, 1, generator=torch.Generator().manual_seed(1))
    theirs = 3 * ours + 2
    expected = (ours.mean() - theirs.mean()) ** 2 + (ours.std() - theirs.std()) ** 2
    assert frechet_distance(ours, theirs) == pytest.approx(expected.item(), rel=1e-5)


def test_a_set_is_no_distance_from_itself():
    features = torch.randn(20, 40, generator=torch.Generator().manual_seed(2))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(features, features + 1) == pytest.approx(40, rel=1e-6)


def padded_pages() -> tuple[torch.Tensor, torch.Tensor]:
    heights = torch.tensor([96, 50])
    images = torch.rand(2, 1, 96, 64, generator=torch.Generator().manual_seed(0))
    return images * (torch.arange(96) < heights[:, None])[:, None, :, None], heights


def test_without_inception_features_are_random_the_same_and_called_so(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    images, heights = padded_pages()
    torch.manual_seed(0)
    network = build_features()
    torch.manual_seed(1)
    again = build_features()(images, heights)
    found = network(images, heights)
    assert network.metric == "fid_random"
    assert found.shape == (2, network.columns)
    assert torch.equal(found, again)
    alone = network(images[1:, :, :64], heights[1:])
    torch.testing.assert_close(found[1:], alone, rtol=1e-4, atol=1e-6)
    assert all(stage.abs().mean() > 0.01 for stage in found.split([32, 64, 128, 256], dim=1))


def test_random_features_tell_more_than_the_mean_brightness():
    """Pages of thin stripes, across or down, as bright as one grey page."""
    network = RandomFeatures()
    stripes = (torch.arange(64) % 4 < 2).float().expand(64, 64)
    pages = torch.stack([stripes, stripes.T, torch.full((64, 64), 0.5)])[:, None]
    found = network(pages, torch.tensor([64, 64, 64]))
    assert torch.linalg.matrix_rank(found, rtol=0.05) == 3


@pytest.mark.slow  # 90 MB of weights are made, written and read
def test_inception_in_torchs_cache_is_used_on_pages_alone(monkeypatch, tmp_path):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / INCEPTION
    path.parent.mkdir(parents=True)
    torch.save({}, path)
    with monkeypatch.context() as patched:
        patched.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        theirs = FeatureExtractorInceptionV3("any", ["2048"], feature_extractor_weights_path=path)
    torch.save(theirs.state_dict(), path)
    images, heights = padded_pages()
    network = build_features()
    found = network(images, heights)
    assert network.metric == "fid"
    assert found.shape == (2, network.columns)
    for page, height in enumerate(heights):
        picture = (images[page : page + 1, :, :height] * 255).round().byte()
        (expected,) = theirs(picture.repeat(1, 3, 1, 1))
        torch.testing.assert_close(found[page : page + 1], expected)


@pytest.mark.parametrize("content", [b"", {"fc.weight": torch.zeros(1)}, print])
def test_a_file_that_is_not_inceptions_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "inception.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ConfigError) as refusal:
        InceptionFeatures(path)
    (line,) = str(refusal.value).splitlines()
    assert line.startswith(f"{path}: is not Inception's weights")
