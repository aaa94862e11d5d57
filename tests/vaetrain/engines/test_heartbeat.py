"""Dead and hung ranks are named; test_dead_ranks.py has real processes.

Ranks are called by one loop, with a clock for which waiting takes no time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
import torch.distributed as dist

from benchmarks.support.simulated_ranks import (
    BeatLoop,
    Clock,
    Store,
    running_store,
    start_ranks,
)
from tests.support.memory_store import MemoryStore
from vaetrain.engines.heartbeat import (
    MISSED_BEATS,
    SEARCH_BEATS,
    rank_list,
    watcher_of,
)

TIMEOUT = 20.0  # seconds; a beat is a second
WORLD, PER_MACHINE, LARGE = 20, 4, 256


class NoServer:
    """Address of a store that is never connected to."""

    address = "memory:1"


class VirtualClock(Clock):
    """A clock for which waiting takes no time, and nothing else takes any."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        """Return the time in seconds."""
        return self._now

    def wait_until(self, moment: float) -> None:
        """Set the clock."""
        self._now = max(self._now, moment)


@pytest.fixture(scope="module")
def real_store() -> Iterator[Store]:
    """Run torch's store in a process of its own."""
    with running_store() as store:
        yield store


@pytest.fixture
def world():
    """Return a function that starts a world of ranks, and returns its loop."""

    def started(size: int = WORLD) -> BeatLoop:
        store, clock = MemoryStore(), VirtualClock()
        ranks = start_ranks(NoServer(), size, PER_MACHINE, TIMEOUT, clock, store)
        return BeatLoop(ranks, clock)

    return started


def failures_after_deaths(loop: BeatLoop, dead: list[int]) -> set[str]:
    """Let ranks die, wait for the others, and return the messages of these."""
    for number in dead:
        loop.ranks[number].die()
    loop.run(3 * TIMEOUT)
    return {rank.failure for rank in loop.ranks if rank.rank not in dead}


def counted(loop: BeatLoop, seconds: float) -> list[list[tuple[str, int]]]:
    """Return the requests of each rank in some time: name and number of keys."""
    requests = [rank.count_requests() for rank in loop.ranks]
    loop.run(seconds)
    return requests


def statuses_read(requests: list[list[tuple[str, int]]]) -> int:
    """Return the number of statuses that all ranks have read."""
    return sum(keys - 1 for own in requests for name, keys in own if name == "multi_get")


def test_ranks_are_listed_in_words():
    assert rank_list([1], "is", "are") == "rank 1 is"
    assert rank_list([0, 2], "is", "are") == "ranks 0 and 2 are"
    assert rank_list([0, 2, 5], "has", "have") == "ranks 0, 2 and 5 have"
    assert rank_list([8, 9, 10, 11], "has", "have") == "ranks 8 to 11 have"
    assert rank_list([0, 1, *range(8, 16), 20], "is", "are") == "ranks 0, 1, 8 to 15 and 20 are"


def test_the_number_of_watchers_does_not_grow_with_the_ranks():
    for size in (1, 2, 8, 9, 100, 384, 512, 513, 4096):
        watchers = {watcher_of(rank, size) for rank in range(size)}
        assert len(watchers) <= 16
        assert all(watcher_of(watcher, size) == watcher for watcher in watchers)
    assert {watcher_of(rank, 8) for rank in range(8)} == {0}


# A rank, a watcher, a machine with a watcher, all watchers.
@pytest.mark.parametrize("dead", [[5], [8], [8, 9, 10, 11], [0, 8, 16]])
def test_all_ranks_report_the_silent_ones_within_the_timeout(world, dead):
    loop = world()
    (failure,) = failures_after_deaths(loop, dead)
    verb = "has" if len(dead) == 1 else "have"
    named = f"{rank_list(dead, verb, verb)} been silent for 17 s (train.timeout_seconds=20); last"
    assert failure.startswith(named)
    ends = [rank.ended for rank in loop.ranks if rank.rank not in dead]
    assert TIMEOUT * 0.8 < min(ends) <= max(ends) <= TIMEOUT


def test_all_ranks_report_the_one_without_progress(world):
    loop = world()
    for rank in loop.ranks:
        if rank.rank != 6:
            rank.mark_progress("in a collective")
    (failure,) = failures_after_deaths(loop, [])
    expected = "rank 6 has made no progress for 20 s (train.timeout_seconds=20)"
    assert failure.startswith(expected)
    assert min(rank.ended for rank in loop.ranks) >= TIMEOUT
    assert "last seen starting" in failure


@pytest.mark.parametrize("dead", [0, 5])
def test_a_rank_whose_collective_failed_names_the_dead_rank_at_once(world, dead):
    """Alone: the others wait, as they have not noticed anything."""
    loop = world()
    loop.ranks[dead].die()
    loop.fail_collectives([loop.ranks[7]])
    loop.run(SEARCH_BEATS - 1)
    assert loop.ranks[7].failure.startswith(f"rank {dead} is dead; last seen starting; ")


def test_real_threads_name_the_dead_rank(real_store):
    ranks = start_ranks(real_store, 2, 2, 2.0, Clock())
    for rank in ranks:
        rank.start()
    ranks[0].die()
    begun = time.monotonic()
    assert ranks[1].find_dead_ranks().startswith("rank 0 is dead; last seen starting; ")
    assert time.monotonic() - begun < 3 * MISSED_BEATS * ranks[1].interval + 0.5
    ranks[1].die()


class LostStore:
    """Store whose connection was reset."""

    def __getattr__(self, name: str) -> object:
        def fail(*_: object) -> None:
            raise dist.DistNetworkError("Connection reset by peer")

        return fail


def test_a_rank_without_the_store_names_the_store_and_no_rank(real_store, monkeypatch):
    """After a reset of all connections, it ended with a trace of torch only."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    ranks = start_ranks(real_store, 2, 2, 2.0, Clock())
    for rank in ranks:
        rank.start()
    ranks[1]._store = LostStore()
    assert ranks[1].find_dead_ranks() is None
    start = f"the launcher's store at {real_store.address} does not answer; check that machine"
    assert ranks[1].find_lost_store().startswith(start)
    assert ranks[0].find_lost_store() is None
    for rank in ranks:
        rank.die()


def test_the_stores_load_is_seen_within_a_few_beats(real_store, monkeypatch):
    """Ticks of 10 ms showed no load of few ranks, and the benchmark failed."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    clock = Clock()
    loop = BeatLoop(start_ranks(real_store, 4, 4, 2.0, clock), clock)
    before = real_store.cpu_seconds()
    loop.run(0.5)
    assert 0 < real_store.cpu_seconds() - before < 5


def test_nothing_is_reported_while_all_ranks_wait_alike(world):
    loop = world()
    loop.run(1.5 * TIMEOUT)
    assert {rank.failure for rank in loop.ranks} == {""}


def test_a_search_finds_nothing_while_all_ranks_are_alive(world):
    loop = world()
    loop.ranks[7].start_search()
    loop.run(SEARCH_BEATS)
    assert loop.ranks[7].dead_ranks() == ""


def test_only_watchers_read_all_statuses_and_in_one_request(world):
    """At first every waiting rank read the status of every other one, in two requests each."""
    loop = world()
    loop.run(10)  # until they read
    for number, own in enumerate(counted(loop, 10)):
        keys = 1 + (WORLD if number % 8 == 0 else 2)  # with that of the failure
        assert set(own) == {("set", 1), ("multi_get", keys)}
        assert len(own) <= 30


def test_a_rank_that_makes_progress_reads_nothing(world):
    loop = world()
    requests = [rank.count_requests() for rank in loop.ranks]
    for number in range(10):
        for rank in loop.ranks:
            rank.mark_progress(f"step {number}")
        loop.run(1)
    assert all(set(own) == {("set", 1)} and len(own) <= 30 for own in requests)


def test_statuses_that_many_waiting_ranks_read_grow_with_the_ranks(world):
    loop = world(LARGE)
    loop.run(5)
    assert statuses_read(counted(loop, 3)) <= 3 * 18 * LARGE  # 16 watchers, and two of each rank


def test_few_of_many_ranks_whose_collectives_have_failed_read_all_statuses(world):
    """All of them did, N^2 statuses a second, and no rank was named in time."""
    loop = world(LARGE)
    loop.ranks[3].die()
    loop.fail_collectives([rank for rank in loop.ranks if rank.rank != 3])
    read = statuses_read(counted(loop, SEARCH_BEATS - 1))
    assert {rank.failure[:14] for rank in loop.ranks if rank.rank != 3} == {"rank 3 is dead"}
    assert read <= SEARCH_BEATS * 26 * LARGE  # eight more


def test_searchers_are_enough_if_all_watchers_are_dead(world):
    loop = world()
    for number in (0, 8, 16):
        loop.ranks[number].die()
    loop.fail_collectives([rank for rank in loop.ranks if not rank.is_over])
    loop.run(SEARCH_BEATS)
    failures = {rank.failure for rank in loop.ranks if rank.rank % 8}
    assert {failure[:24] for failure in failures} == {"ranks 0, 8 and 16 are de"}


def test_a_missing_status_is_found_with_few_requests(world):
    """The store says only whether all keys have a value, and each was asked for on its own."""
    loop = world(LARGE)
    watcher = loop.ranks[0]
    loop.ranks[3].die()
    del watcher._store._values[watcher._keys[3]]
    requests = watcher.count_requests()
    watcher._read(list(range(LARGE)))
    assert [name for name, _ in requests].count("check") <= 20
    assert watcher._written == set(range(LARGE)) - {3}


def test_a_pause_of_this_process_is_not_taken_for_the_silence_of_others(world):
    rank = world().ranks[0]
    rank.start_search()
    rank.watch(1000.0)
    rank.watch(1000.0)
    assert rank.dead_ranks() == ""


def test_a_status_is_json(world):
    rank = world().ranks[1]
    rank.mark_progress("reading pages")
    rank.beat()
    assert json.loads(rank._store._values["status/1"])[:3] == [1, 1, "reading pages"]
