"""Selection of FSDP2's engines by the launcher's variables; test_startup.py has the others."""

from __future__ import annotations

import pytest

from vaetrain.engines.spec import SHARD_SIZE, Launch, running_launch
from vaetrain.settings import ConfigError

SHARDS, COPIES = (f"PARALLELISM_CONFIG_DP_{name}_SIZE" for name in ("SHARD", "REPLICATE"))
FOUR = {
    **{"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4"},
    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
    "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
}
FSDP2 = FOUR | {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
OFFLOADED, HYBRID = {"FSDP_OFFLOAD_PARAMS": "true"}, {"FSDP_SHARDING_STRATEGY": "HYBRID_SHARD"}
OPTIONS = (("fsdp_reshard_after_forward", "true"), ("fsdp_min_num_params", "100000000"))


@pytest.mark.parametrize(
    ("environment", "size"),
    [
        (HYBRID, "1"),  # the ranks of a machine
        (HYBRID | {SHARDS: "4"}, "4"),
        (HYBRID | {COPIES: "2"}, "2"),
        ({"FSDP_SHARDING_STRATEGY": "4"}, "1"),  # FSDP1's number of the strategy
        # As Accelerate itself asks for it under FSDP2.
        ({"FSDP_SHARDING_STRATEGY": "FULL_SHARD", SHARDS: "2", COPIES: "2"}, "2"),
        ({COPIES: "2"}, "2"),
    ],
)
def test_copies_of_the_model_select_hybrid_sharding(environment, size):
    expected = Launch("fsdp2_hybrid", 4, "no", (*OPTIONS, (SHARD_SIZE, size)))
    assert running_launch(FSDP2 | environment) == expected


@pytest.mark.parametrize("strategy", ["FULL_SHARD", "1"])
def test_offload_selects_its_engine(strategy):
    environment = FSDP2 | OFFLOADED | {"FSDP_SHARDING_STRATEGY": strategy}
    assert running_launch(environment) == Launch("fsdp2_offload", 4, "no", OPTIONS)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (FSDP2 | OFFLOADED | HYBRID, "fsdp_offload_params=true, fsdp_sharding_strategy=hybrid"),
        (FSDP2 | {"FSDP_SHARDING_STRATEGY": "NO_SHARD"}, "fsdp_sharding_strategy=no_shard"),
        (FSDP2 | {SHARDS: "3"}, f"{SHARDS} is '3'; fsdp2 splits the model over all 4 ranks"),
        (FSDP2 | HYBRID | {SHARDS: "3"}, f"{SHARDS} is '3'; the product of"),
        (FSDP2 | HYBRID | {SHARDS: "0"}, f"{SHARDS} is '0'; the product of"),
        (FSDP2 | HYBRID | {COPIES: "0"}, f"{COPIES} is '0'; the product of"),
        (FSDP2 | HYBRID | {COPIES: "4"}, f"{COPIES} is '4'; the product of"),
        (FSDP2 | {COPIES: "3"}, f"{COPIES} is '3'; the product of"),
        (FSDP2 | HYBRID | {SHARDS: "2", COPIES: "3"}, "must be the number of ranks, 4"),
        (FOUR | {COPIES: "2"}, f"{COPIES} is '2', which ddp does not know"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(environment, message):
    with pytest.raises(ConfigError, match=message):
        running_launch(environment)
