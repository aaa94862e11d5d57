"""Speed of a link: medians of the all-reduces, and the share that overlaps with computing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks.support import all_reduce_speed
from tests.support.engines import FakeEngine

TICK, BANDWIDTH = 1e-3, 1e6  # seconds a reading of the clock; bytes/s of the link


@pytest.fixture
def engine(monkeypatch):
    """Return an engine whose all-reduces advance a clock by their bytes over `BANDWIDTH`."""
    now = [0.0]

    def clock() -> float:
        now[0] += TICK
        return now[0]

    def all_reduce(values, async_op=False):
        seconds = values.nbytes / BANDWIDTH
        if not async_op:
            now[0] += seconds
        return SimpleNamespace(wait=lambda: now.__setitem__(0, now[0] + seconds * engine.exposed))

    engine = FakeEngine()
    monkeypatch.setattr(all_reduce_speed.time, "perf_counter", clock)
    monkeypatch.setattr(all_reduce_speed.dist, "all_reduce", all_reduce)
    monkeypatch.setattr(all_reduce_speed.dist, "barrier", lambda: None)
    return engine


@pytest.mark.parametrize("exposed", [0.0, 0.25, 1.0])
def test_hidden_is_the_share_of_the_largest_all_reduce_that_costs_no_time(engine, exposed):
    engine.exposed = exposed
    measured = all_reduce_speed.measure(engine, [4000, 400_000], repeats=3)
    assert measured["seconds"] == pytest.approx([0.004 + TICK, 0.4 + TICK])
    assert measured["hidden"] == pytest.approx(1 - exposed, abs=0.01)
