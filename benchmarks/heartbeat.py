"""Load of the heartbeat on the launcher's store, and time until a dead rank is reported.

    python -m benchmarks.heartbeat [--quick] [--out DIR]

Ranks are threads of one process, eight for each machine. The store is torch's own, in a process of
its own. All ranks wait, as they do for a rank that hangs: a rank that makes progress only writes.
Measured are the CPU time of the store's process, and the time from the death of a rank until the
first and the last rank have its name. One rank dies while the others only wait, and are to report
it within the timeout. Another one dies in a new world in which the collective of all others fails;
then each of them reads all statuses. Writes heartbeat.json and heartbeat.png.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from benchmarks.support import harness, report
from benchmarks.support.simulated_ranks import (
    SimulatedRank,
    Store,
    running_store,
    start_ranks,
    wait_for_ends,
)
from shards import cli

PER_MACHINE, TIMEOUT = 8, 30.0
SETTLE = 6.0  # seconds until all ranks read
GROUPS = {"% of a core": "load on the store", "s": "time until a dead rank is reported"}
DEAD = 3  # on the first machine, but not its watcher


def measure(world_size: int, windows: int, seconds: float) -> dict[tuple[str, str], list[float]]:
    """Return measurements of a world by name and unit.

    Args:
        windows: number of measurements of the store's load, of `seconds` each.
    """
    found: dict[tuple[str, str], list[float]] = {}
    with running_store() as store:
        ranks = start_ranks(store, world_size, PER_MACHINE, TIMEOUT)
        time.sleep(SETTLE)
        loads = [load_of(store, lambda: time.sleep(seconds)) for _ in range(windows)]
        found["all ranks wait", "% of a core"] = loads
        kill_one(ranks, found, "a rank dies")
    with running_store() as store:
        ranks = start_ranks(store, world_size, PER_MACHINE, TIMEOUT)
        time.sleep(SETTLE)
        kind = "a rank dies and collectives fail"
        load = load_of(store, lambda: kill_one(ranks, found, kind, then=fail_collectives))
        found[kind, "% of a core"] = [load]
    return found


def load_of(store: Store, action: Callable[[], None]) -> float:
    """Return the CPU time of the store's process during an action, in percent of a core."""
    begun, before = time.monotonic(), store.cpu_seconds()
    action()
    return 100 * (store.cpu_seconds() - before) / (time.monotonic() - begun)


def kill_one(
    ranks: list[SimulatedRank],
    found: dict[tuple[str, str], list[float]],
    kind: str,
    then: Callable[[list[SimulatedRank]], None] = lambda alive: None,
) -> None:
    """Let a rank die, wait until all others report it, and add the times to `found`.

    Args:
        then: is called with the others right after the death.
    """
    alive = [rank for rank in ranks if rank.rank != DEAD]
    ranks[DEAD].die()
    begun = time.monotonic()
    then(alive)
    wait_for_ends(alive, 3 * TIMEOUT)
    wrong = [rank.rank for rank in alive if not rank.failure.startswith(f"rank {DEAD} ")]
    if wrong:
        found_instead = ranks[wrong[0]].failure[:60] or "nothing"
        raise RuntimeError(f"{len(wrong)} ranks report {found_instead} instead of rank {DEAD}")
    ends = [rank.ended - begun for rank in alive]
    found[f"{kind}: first rank reports it", "s"] = [min(ends)]
    found[f"{kind}: last rank reports it", "s"] = [max(ends)]


def fail_collectives(alive: list[SimulatedRank]) -> None:
    """Do what every rank does when its collective fails."""

    def find(rank: SimulatedRank) -> None:
        failure = rank.find_dead_ranks()
        if failure and not rank.ended:
            rank.end(failure)

    with ThreadPoolExecutor(len(alive)) as pool:
        list(pool.map(find, alive))


def main() -> int:
    """Run the command and return the exit status."""
    arguments = harness.parser("heartbeat", __doc__).parse_args()
    quick = arguments.quick
    worlds, windows, seconds = ((16,), 1, 2.0) if quick else ((64, 256, 512), 3, 10.0)
    results = []
    for world_size in cli.progress(worlds, unit="world"):
        for (name, unit), values in measure(world_size, windows, seconds).items():
            case = f"{world_size} ranks, {name}"
            results.append(report.result(GROUPS[unit], case, unit, values, better="lower"))
    settings = {"seed": arguments.seed, "rounds": windows, "warmup": 0, "device": "cpu"}
    settings |= {"threads": 1, "per_machine": PER_MACHINE, "timeout": TIMEOUT}
    record = report.record(
        "heartbeat", quick=quick, settings=settings, packages=(), results=results
    )
    report.publish(record, arguments.out)
    return 0


if __name__ == "__main__":
    cli.run("benchmarks.heartbeat", main)
