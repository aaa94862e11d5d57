"""Variables by which a launcher numbers the processes of a training: read once, together.

A launcher sets all of them. Some of them left in a shell, or exported by hand, would make this
process wait for ranks that nobody starts, or train as a rank of another training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vaetrain.settings import ConfigError

# Each variable with its minimum and maximum; None: no maximum.
NUMBERS: dict[str, tuple[int, int | None]] = {
    "RANK": (0, None),
    "WORLD_SIZE": (1, None),
    "LOCAL_RANK": (0, None),
    "LOCAL_WORLD_SIZE": (1, None),
    "GROUP_RANK": (0, None),
    "GROUP_WORLD_SIZE": (1, None),
    "MASTER_PORT": (1, 65535),
}
# Number of processes that another launcher started, and the number of this one.
OTHER_LAUNCHERS = {
    "SLURM_STEP_NUM_TASKS": "SLURM_PROCID",
    "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK",
    "PMI_SIZE": "PMI_RANK",
    "MV2_COMM_WORLD_SIZE": "MV2_COMM_WORLD_RANK",
}
SMALLER = (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
SMALLER += (("GROUP_RANK", "GROUP_WORLD_SIZE"),)
AT_MOST = (("LOCAL_RANK", "RANK"), ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
AT_MOST += (("GROUP_WORLD_SIZE", "WORLD_SIZE"),)
ALONE = "unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK GROUP_WORLD_SIZE"
REMEDY = f"start with accelerate launch, or, if a launcher left it in this shell, {ALONE}"


@dataclass(frozen=True)
class Ranks:
    """Numbers of this process and of its training.

    Attributes:
        rank, world_size: this process, and the number of processes.
        local_rank, local_world_size: the same on this machine.
        machine, machines: this machine, and the number of machines.
        address: `host:port` where the ranks meet; None without a process group.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    machine: int = 0
    machines: int = 1
    address: str | None = None


def read_ranks(environment: Mapping[str, str]) -> Ranks:
    """Return the numbers of this process.

    Raises ConfigError naming the variable that is malformed, missing or contradicts another one.
    """
    given = {name: environment[name] for name in NUMBERS if environment.get(name)}
    if not given.keys() - {"MASTER_PORT"}:  # the port alone asks for nothing, and may be 0
        given = {}
    values = {name: _number(name, text, *NUMBERS[name]) for name, text in given.items()}
    ranks = {name: value for name, value in values.items() if name != "MASTER_PORT"}
    if not ranks or ranks == {"WORLD_SIZE": 1}:
        _refuse_other_launchers(environment)
        return Ranks()
    present = next(iter(ranks))
    required = ["WORLD_SIZE", "RANK"]
    if ranks.get("WORLD_SIZE", 1) > 1 or "LOCAL_RANK" in ranks:
        required += ["LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"]
    for name in required:
        if not environment.get(name):
            raise ConfigError(
                f"{present} is {ranks[present]}, but {name} is not set in the environment; {REMEDY}"
            )
    for pairs, is_wrong, word in (
        (SMALLER, int.__ge__, "less than"),
        (AT_MOST, int.__gt__, "at most"),
    ):
        for name, limit in pairs:
            if name in values and limit in values and is_wrong(values[name], values[limit]):
                raise ConfigError(
                    f"{name} is {values[name]}, but must be {word} {limit}, which is "
                    f"{values[limit]}; {REMEDY}"
                )
    has_group = "LOCAL_RANK" in values
    return Ranks(
        rank=values["RANK"],
        world_size=values["WORLD_SIZE"],
        local_rank=values.get("LOCAL_RANK", 0),
        local_world_size=values.get("LOCAL_WORLD_SIZE", 1),
        machine=values.get("GROUP_RANK", 0),
        machines=values.get("GROUP_WORLD_SIZE", 1),
        address=f"{environment['MASTER_ADDR']}:{values['MASTER_PORT']}" if has_group else None,
    )


def _number(name: str, text: str, minimum: int, maximum: int | None = None) -> int:
    number = int(text) if text.isdecimal() and text.isascii() and len(text) < 10 else -1
    if number < minimum or (maximum is not None and number > maximum):
        limits = f"of at least {minimum}" if maximum is None else f"in {minimum}..{maximum}"
        raise ConfigError(f"{name} is {text!r}, must be a whole number {limits}; {REMEDY}")
    return number


def _refuse_other_launchers(environment: Mapping[str, str]) -> None:
    """Raise ConfigError if srun or mpirun started several processes that know of no other."""
    for size, rank in OTHER_LAUNCHERS.items():
        total = _number(size, environment.get(size) or "1", 1)
        number = _number(rank, environment.get(rank) or "0", 0)
        if size == "SLURM_STEP_NUM_TASKS" and size not in environment and number > 0:
            size = "SLURM_NTASKS"
            total = _number(size, environment.get(size) or str(number + 1), 1)
        if number >= total:
            raise ConfigError(
                f"{rank} is {number}, but must be less than {size}, which is {total}; "
                f"unset it if it was left in this shell"
            )
        if total > 1:
            raise ConfigError(
                f"{size} is {total}, but no launcher has set RANK, so each of these processes "
                f"would train the whole run; start one process per machine with "
                f"launch/multinode.sh (Slurm: launch/slurm.sbatch), or unset {size} and {rank}"
            )
