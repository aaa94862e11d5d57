"""Dead and hung ranks are named, with threads as ranks; test_dead_ranks.py has real ones."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from benchmarks.support.simulated_ranks import (
    SimulatedRank,
    Store,
    running_store,
    start_ranks,
    wait_for_ends,
)
from vaetrain.engines.heartbeat import MISSED_BEATS, rank_list

TIMEOUT = 2.0  # seconds; a beat is a twentieth
WORLD, PER_MACHINE = 12, 4
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """Run one store for all tests."""
    with running_store() as store:
        yield store


@pytest.fixture
def ranks(store, monkeypatch) -> Iterator[list[SimulatedRank]]:
    """Start ranks of three machines, under a prefix of their own in the store."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(time.monotonic_ns()))
    started = start_ranks(store, WORLD, PER_MACHINE, TIMEOUT)
    yield started
    for rank in started:
        rank.die()


def failures_after_deaths(ranks: list[SimulatedRank], dead: list[int]) -> set[str]:
    """Let ranks die, wait for the others, and return the messages of these."""
    for number in dead:
        ranks[number].die()
    alive = [rank for rank in ranks if rank.rank not in dead]
    wait_for_ends(alive, 3 * TIMEOUT)
    return {rank.failure for rank in alive}


def test_ranks_are_listed_in_words():
    assert rank_list([1], "is", "are") == "rank 1 is"
    assert rank_list([0, 2], "is", "are") == "ranks 0 and 2 are"
    assert rank_list([0, 2, 5], "has", "have") == "ranks 0, 2 and 5 have"
    assert rank_list([8, 9, 10, 11], "has", "have") == "ranks 8 to 11 have"
    assert rank_list([0, 1, *range(8, 16), 20], "is", "are") == "ranks 0, 1, 8 to 15 and 20 are"


# A rank, the watcher of a machine, all ranks of a machine, all watchers.
@pytest.mark.parametrize(
    "dead", [[4], *(pytest.param(dead, marks=slow) for dead in ([5], [4, 5, 6, 7], [0, 4, 8]))]
)
def test_all_ranks_report_the_silent_ones(ranks, dead):
    (failure,) = failures_after_deaths(ranks, dead)
    verb = "has" if len(dead) == 1 else "have"
    assert failure.startswith(f"{rank_list(dead, verb, verb)} been silent for 2 s")


def test_the_stores_load_is_seen_within_a_few_beats(store, ranks):
    """Ticks of 10 ms showed no load of few ranks, and the benchmark failed."""
    before = store.cpu_seconds()
    time.sleep(5 * ranks[0].interval)
    assert 0 < store.cpu_seconds() - before < 5


def test_all_ranks_report_the_one_without_progress(ranks):
    for rank in ranks:
        if rank.rank != 6:
            rank.mark_progress("in a collective")
    wait_for_ends(ranks, 3 * TIMEOUT)
    (failure,) = {rank.failure for rank in ranks}
    assert failure.startswith("rank 6 has made no progress for 2 s")
    assert "last seen starting" in failure


@pytest.mark.parametrize("dead", [4, pytest.param(5, marks=slow)])
def test_a_rank_whose_collective_failed_names_the_dead_rank_at_once(ranks, dead):
    ranks[dead].die()
    begun = time.monotonic()
    failure = ranks[7].find_dead_ranks()
    assert failure.startswith(f"rank {dead} is dead; last seen starting; ")
    assert time.monotonic() - begun < 3 * MISSED_BEATS * ranks[7].interval + 0.5


@slow
def test_nothing_is_reported_while_all_ranks_wait_alike(ranks):
    time.sleep(1.5 * TIMEOUT)
    assert {rank.failure for rank in ranks} == {""}


def counted(ranks: list[SimulatedRank]) -> list[list[tuple[str, int]]]:
    """Return the lists to which each rank's requests are added from now on."""
    return [rank.count_requests() for rank in ranks]


def test_only_watchers_read_all_statuses_and_in_one_request(ranks):
    """At first every waiting rank read the status of every other one, in two requests each."""
    time.sleep(10 * ranks[0].interval)  # until they read
    requests = counted(ranks)
    time.sleep(10 * ranks[0].interval)
    for number, own in enumerate(requests):
        keys = 1 + (WORLD if number % PER_MACHINE == 0 else 2)  # with that of the failure
        assert set(own) == {("set", 1), ("multi_get", keys)}
        assert len(own) <= 30


def test_a_rank_that_makes_progress_reads_nothing(ranks):
    requests = counted(ranks)
    for number in range(10):
        for rank in ranks:
            rank.mark_progress(f"step {number}")
        time.sleep(ranks[0].interval)
    assert all(set(own) == {("set", 1)} and len(own) <= 30 for own in requests)
