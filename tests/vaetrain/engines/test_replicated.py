"""Settings that engines with a whole model on every rank refuse."""

import pytest

from vaetrain.engines.replicated import ReplicatedEngine
from vaetrain.engines.spec import ENGINES
from vaetrain.settings import ConfigError


def test_one_process_has_no_reduction_to_round():
    engine = ReplicatedEngine.__new__(ReplicatedEngine)
    engine.spec = ENGINES["single"]
    with pytest.raises(ConfigError, match=r"^engine\.reduce_dtype: single has one rank"):
        engine._reduce_in_bf16()
