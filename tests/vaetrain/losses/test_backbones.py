"""Files of LPIPS' backbones."""

import pytest

from vaetrain.losses.backbones import BACKBONES, backbone_file
from vaetrain.settings import ConfigError


@pytest.mark.parametrize("net", BACKBONES)
def test_a_missing_file_is_named_with_its_download_address(net, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ConfigError) as error:
        backbone_file(net, None)
    (line,) = str(error.value).splitlines()
    path = tmp_path / "hub" / "checkpoints" / BACKBONES[net]
    assert line.startswith(f"loss.perceptual_net: {net} needs the weights {path}, ")
    assert f"get https://download.pytorch.org/models/{BACKBONES[net]}" in line


def test_a_file_in_torchs_cache_or_at_a_given_path_is_used(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached, given = tmp_path / "hub" / "checkpoints" / BACKBONES["alex"], tmp_path / "own.pth"
    cached.parent.mkdir(parents=True)
    cached.touch(), given.touch()
    assert backbone_file("alex", None) == cached
    assert backbone_file("alex", str(given)) == given
