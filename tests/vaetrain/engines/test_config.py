"""When FSDP2 reduces the gradients of a step."""

import pytest

from vaetrain.engines.config import EngineConfig
from vaetrain.settings import AUTO


@pytest.mark.parametrize(
    ("dtype", "each", "offload", "expected"),
    [
        ("fp32", AUTO, False, False),
        ("fp32", AUTO, True, True),  # whole gradients would lie on the device
        ("bf16", AUTO, False, True),  # FSDP2 would add up micro batches in bf16
        ("fp32", True, False, True),
        ("fp32", False, True, False),
        ("bf16", False, False, False),
    ],
)
def test_auto_reduces_once_a_step_except_for_bf16_and_offload(dtype, each, offload, expected):
    config = EngineConfig(reduce_dtype=dtype, reduce_each_micro_batch=each)
    assert config.reduces_each(offload=offload) is expected
