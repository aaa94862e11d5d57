"""Load of the heartbeat on the launcher's store, and time until a dead rank is reported.

    python -m benchmarks.heartbeat [--quick] [--out DIR]

The store is torch's own, in a process of its own. The ranks are in this process, eight for each
machine: the trainer's own beats, requests and decisions, which one loop calls at the times at which
the threads of real ranks would. Measured are the CPU time of the store's process, and the time from
the death of a rank until the first and the last of the others have its name. In one world all
ranks train, then one dies and the others wait for it. In another one the collectives of all others
fail when it dies. Raises RuntimeError if a rank names another one than the dead, or if the machine
was too busy for the times to be valid. Writes heartbeat.json and heartbeat.png.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.support import harness, report
from benchmarks.support.simulated_ranks import BeatLoop, Clock, Store, running_store, start_ranks
from shards import cli
from vaetrain.engines.heartbeat import MISSED_BEATS

PER_MACHINE = 8
SETTLE = 5.0  # seconds until all ranks read
GROUPS = {"% of a core": "load on the store", "s": "time"}
DEAD = 3  # not a watcher
Found = dict[tuple[str, str], list[float]]


def measure(world_size: int, timeout: float, windows: int, seconds: float) -> Found:
    """Return measurements of a world by name and unit.

    Args:
        timeout: of the heartbeat in seconds.
        windows: number of measurements of the store's load, of `seconds` each.
    """
    found: Found = {}
    late = []
    with running_store() as store:
        loop = started(store, world_size, timeout)

        def train() -> None:
            for _ in range(round(seconds)):
                mark_progress(loop)
                loop.run(1.0)

        found["all ranks train", "% of a core"] = [load_of(store, train) for _ in range(windows)]
        begun = kill_one(loop)
        mark_progress(loop)
        loop.run(SETTLE)
        loads = [load_of(store, lambda: loop.run(seconds)) for _ in range(windows)]
        found["all others wait for the dead rank", "% of a core"] = loads
        loop.run(3 * timeout)
        found |= times_of(loop, begun, "they wait")
        late.append(loop.latest)
    with running_store() as store:
        loop = started(store, world_size, timeout)
        mark_progress(loop)
        loop.run(SETTLE)
        begun = kill_one(loop)
        loop.fail_collectives([rank for rank in loop.ranks if rank.rank != DEAD])
        load = load_of(store, lambda: loop.run(3 * timeout))
        found["the collectives of all others fail", "% of a core"] = [load]
        found |= times_of(loop, begun, "their collectives fail")
        late.append(loop.latest)
    found["a beat came late, at most", "s"] = [max(late)]
    most = MISSED_BEATS / 2 * loop.ranks[0].interval
    if max(late) > most:
        raise RuntimeError(
            f"beats came up to {max(late):.1f} s late, more than {most:g} s, so the results are "
            "not valid; this machine is too busy"
        )
    return found


def started(store: Store, world_size: int, timeout: float) -> BeatLoop:
    """Return the loop of ranks that have connected to the store."""
    clock = Clock()
    return BeatLoop(start_ranks(store, world_size, PER_MACHINE, timeout, clock), clock)


def mark_progress(loop: BeatLoop) -> None:
    """Let all ranks make progress."""
    for rank in loop.ranks:
        rank.mark_progress("training")


def load_of(store: Store, action: Callable[[], None]) -> float:
    """Return the CPU time of the store's process during an action, in percent of a core."""
    begun, before = time.monotonic(), store.cpu_seconds()
    action()
    return 100 * (store.cpu_seconds() - before) / (time.monotonic() - begun)


def kill_one(loop: BeatLoop) -> float:
    """Let a rank die; return the time."""
    loop.ranks[DEAD].die()
    return time.monotonic()


def times_of(loop: BeatLoop, begun: float, kind: str) -> Found:
    """Return the times until the first and the last rank have named the dead one.

    Args:
        begun: time of its death.
    """
    alive = [rank for rank in loop.ranks if rank.rank != DEAD]
    wrong = [rank for rank in alive if not rank.failure.startswith(f"rank {DEAD} ")]
    if wrong:
        found_instead = wrong[0].failure[:60] or "nothing"
        raise RuntimeError(f"{len(wrong)} ranks report {found_instead} instead of rank {DEAD}")
    ends = [rank.ended - begun for rank in alive]
    return {
        (f"{kind}: named by the first after", "s"): [min(ends)],
        (f"{kind}: named by the last after", "s"): [max(ends)],
    }


def main() -> int:
    """Run the command and return the exit status."""
    arguments = harness.parser("heartbeat", __doc__).parse_args()
    quick = arguments.quick
    worlds, timeout, windows, seconds = ((64, 256, 512), 30.0, 3, 8.0)
    if quick:
        worlds, timeout, windows, seconds = ((16,), 20.0, 1, 2.0)
    results = []
    for world_size in cli.progress(worlds, unit="world"):
        for (name, unit), values in measure(world_size, timeout, windows, seconds).items():
            case = f"{world_size} ranks, {name}"
            results.append(report.result(GROUPS[unit], case, unit, values, better="lower"))
    settings = {"seed": arguments.seed, "rounds": windows, "warmup": 0, "device": "cpu"}
    settings |= {"threads": 1, "per_machine": PER_MACHINE, "timeout": timeout}
    record = report.record(
        "heartbeat", quick=quick, settings=settings, packages=(), results=results
    )
    report.publish(record, arguments.out)
    return 0


if __name__ == "__main__":
    cli.run("benchmarks.heartbeat", main)
