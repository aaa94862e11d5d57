"""Settings of the training data."""

from pathlib import Path

import pytest

from vaetrain.config.experiment import load_experiment
from vaetrain.data.config import SAMPLE_SHARDS, DataConfig
from vaetrain.settings import ConfigError
from vaetrain.startup import require_shards


def test_unset_shards_are_the_built_in_sample():
    assert DataConfig().folder == SAMPLE_SHARDS


@pytest.mark.parametrize(
    ("shards", "folder"),
    [("data/mine", Path("data/mine")), ("s3://bucket/mine", "s3://bucket/mine")],
)
def test_shards_are_a_folder_or_an_address(shards, folder):
    assert DataConfig(shards=shards).folder == folder


def test_address_of_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match=r"data\.shards: .*ftp"):
        _ = DataConfig(shards="ftp://host/mine").folder


def test_cache_size_is_in_gigabytes():
    assert DataConfig(cache_gb=1.5).cache.bytes == 1_500_000_000


def test_a_tar_of_another_tool_is_refused_with_the_command_that_builds_shards(tmp_path):
    tar = tmp_path / "train-000000.tar"
    tar.write_bytes(bytes(1024))
    for source in (tmp_path, tar):
        experiment = load_experiment(None, [f"data.shards={source}"])
        with pytest.raises(ConfigError) as refusal:
            require_shards(experiment)
        assert f"python -m shards.build {source} --out NEW" in str(refusal.value)
        assert len(str(refusal.value).splitlines()) == 1
