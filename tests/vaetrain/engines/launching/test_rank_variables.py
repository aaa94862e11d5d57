"""Variables of a launcher, complete, missing, malformed and contradictory."""

import pytest

from vaetrain.engines.launching.rank_variables import Ranks, read_ranks
from vaetrain.settings import ConfigError

WHOLE = {
    **{"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
    **{"GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2"},
    **{"MASTER_ADDR": "node1", "MASTER_PORT": "29500"},
}


def test_a_whole_set_is_read():
    assert read_ranks(WHOLE) == Ranks(5, 8, 1, 4, 1, 2, "node1:29500")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WORLD_SIZE": "1"},
        {"RANK": "", "LOCAL_RANK": ""},
        {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"},  # alone, they ask for nothing
        {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"},  # by accelerate launch for MULTI_CPU
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"},  # a batch script, which runs once
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "PMI_SIZE": "1", "PMI_RANK": "0"},
    ],
)
def test_a_process_alone_is_rank_0_of_1(environment):
    assert read_ranks(environment) == Ranks()


def test_a_launcher_within_srun_counts():
    environment = WHOLE | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "PMI_SIZE": "2"}
    assert read_ranks(environment).world_size == 8


@pytest.mark.parametrize("name", WHOLE)
def test_each_left_out_variable_of_a_whole_set_is_refused_or_not_needed(name):
    rest = {key: value for key, value in WHOLE.items() if key != name}
    if name in ("LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"):
        assert read_ranks(rest).rank == 5
        return
    with pytest.raises(ConfigError, match=f"but {name} is not set in the environment"):
        read_ranks(rest)


@pytest.mark.parametrize("name", [name for name in WHOLE if name != "MASTER_ADDR"])
@pytest.mark.parametrize("text", ["x", "-1", "1.5", "1e3", " 1", "\u0661", "9" * 30, "70000000000"])
def test_a_malformed_number_is_refused(name, text):
    with pytest.raises(ConfigError, match=f"^{name} is .*must be a whole number"):
        read_ranks(WHOLE | {name: text})


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK"])
def test_a_variable_alone_is_refused(name):
    with pytest.raises(ConfigError, match=f"^{name} is 3, but WORLD_SIZE is not set") as refusal:
        read_ranks({name: "3"})
    assert "unset RANK" in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RANK": "8"}, "RANK is 8, but must be less than WORLD_SIZE, which is 8"),
        ({"LOCAL_RANK": "4"}, "LOCAL_RANK is 4, but must be less than LOCAL_WORLD_SIZE"),
        ({"GROUP_RANK": "2"}, "GROUP_RANK is 2, but must be less than GROUP_WORLD_SIZE"),
        ({"RANK": "0"}, "LOCAL_RANK is 1, but must be at most RANK, which is 0"),
        ({"LOCAL_WORLD_SIZE": "9"}, "LOCAL_WORLD_SIZE is 9, but must be at most WORLD_SIZE"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT is '70000', must be a whole number in 1..65535"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0', must be a whole number of at least 1"),
    ],
)
def test_a_contradiction_names_both_variables(change, message):
    with pytest.raises(ConfigError) as refusal:
        read_ranks(WHOLE | change)
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}, "SLURM_STEP_NUM_TASKS is 4, but no"),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "3"}, "SLURM_NTASKS is 4, but no launcher has set"),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "3"}, "SLURM_PROCID is 3, but must be less than S"),
        ({"SLURM_PROCID": "x"}, "SLURM_PROCID is 'x', must be a whole number"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE is 2, but no launcher has set RANK"),
        ({"PMI_SIZE": "2", "PMI_RANK": "2"}, "PMI_RANK is 2, but must be less than PMI_SIZE"),
        ({"MV2_COMM_WORLD_SIZE": "0"}, "MV2_COMM_WORLD_SIZE is '0', must be a whole number"),
    ],
)
def test_processes_of_srun_and_mpirun_are_refused(environment, message):
    with pytest.raises(ConfigError) as refusal:
        read_ranks(environment)
    assert str(refusal.value).startswith(message)
