"""A collapse is told from a start, and the cap on beta goes down and up again."""

import pytest

from vaetrain.config.training import CollapseConfig
from vaetrain.training.collapse import FALL, REST, CollapseMonitor

LOOK = {"dimensions": 32, "beta": 1.0, "l1": 0.03, "l1_shuffled": 0.06}


def states(watch: CollapseMonitor, *counts: int) -> list[str]:
    return [watch.update(active, **LOOK).state for active in counts]


def test_a_model_that_wakes_is_not_collapsing():
    watch = CollapseMonitor(CollapseConfig(), starts_awake=False)
    assert states(watch, 0, 3, 14, 26, 32) == ["waking", "waking", "waking", "healthy", "healthy"]


def test_one_that_never_wakes_is_by_the_second_look():
    watch = CollapseMonitor(CollapseConfig(), starts_awake=False)
    assert states(watch, 0, 0, 0) == ["waking", "collapsing", "collapsing"]


def test_one_that_was_awake_is_at_once():
    assert states(CollapseMonitor(CollapseConfig(), starts_awake=True), 15) == ["collapsing"]
    watch = CollapseMonitor(CollapseConfig(), starts_awake=True)
    assert states(watch, 32, 16, 15) == ["healthy", "healthy", "collapsing"]


def test_the_verdict_says_how_many_and_what_to_try():
    verdict = CollapseMonitor(CollapseConfig(), starts_awake=True).update(1, **LOOK)
    assert str(verdict).startswith("collapsing: 31 of 32 dimensions inactive; try a lower beta.max")


def test_a_decoder_that_does_without_the_latent_is_noticed():
    watch = CollapseMonitor(CollapseConfig(), starts_awake=True)
    verdict = watch.update(32, **LOOK | {"l1_shuffled": 0.0301})
    assert verdict.state == "collapsing"
    assert "another page's latent" in verdict.reason
    assert watch.update(32, **LOOK | {"l1_shuffled": None}).state == "healthy"


@pytest.mark.parametrize("action", ["warn", "stop"])
def test_only_hold_beta_caps_it(action):
    watch = CollapseMonitor(CollapseConfig(action=action), starts_awake=True)
    assert states(watch, 0, 0) == ["collapsing", "collapsing"]
    assert watch.cap is None


def test_the_cap_falls_rests_and_rises():
    watch = CollapseMonitor(CollapseConfig(action="hold_beta"), starts_awake=True)
    asked, caps = 8.0, []
    for active in (0, 0, 5, 20, 20):
        beta = asked if watch.cap is None else min(asked, watch.cap)
        watch.update(active, **LOOK | {"beta": beta})
        caps.append(watch.cap)
    low = FALL * FALL * asked
    assert caps == [FALL * asked, low, low, REST * low, REST * REST * low]
    # The schedule itself now asks for less.
    watch.update(20, **LOOK | {"beta": low})
    assert watch.cap is None


def test_beta_zero_is_not_held_for_ever():
    watch = CollapseMonitor(CollapseConfig(action="hold_beta"), starts_awake=True)
    watch.update(0, **LOOK | {"beta": 0.0})
    assert watch.cap is None


def test_it_goes_on_from_its_state():
    config = CollapseConfig(action="hold_beta")
    watch, other = (CollapseMonitor(config, starts_awake=False) for _ in range(2))
    states(watch, 0, 0, 9)
    other.load(watch.state())
    assert other.state() == watch.state()
    assert states(other, 9) == states(watch, 9) == ["collapsing"]
    assert other.cap == watch.cap


def test_no_more_dimensions_are_active_than_pages_can_tell_apart():
    verdict = CollapseMonitor(CollapseConfig(), starts_awake=True).update(128, **LOOK)
    assert str(verdict) == "healthy: 32 of 32 dimensions active"
