"""Posterior reports of validations, and the cap on beta that follows from them."""

import pytest

from vaetrain.config.training import CollapseConfig
from vaetrain.training.collapse import CAP_DECREASE, CAP_INCREASE, CollapseMonitor

VALIDATION = {"dimensions": 32, "latent_dim": 32, "beta": 1.0, "l1": 0.03, "l1_shuffled": 0.06}


def states(monitor: CollapseMonitor, *counts: int) -> list[str]:
    return [monitor.update(active, **VALIDATION).state for active in counts]


def test_rising_number_of_active_dimensions_is_waking():
    monitor = CollapseMonitor(CollapseConfig(), starts_active=False)
    assert states(monitor, 0, 3, 14, 26, 32) == ["waking", "waking", "waking", "healthy", "healthy"]


def test_random_start_without_active_dimensions_collapses_at_second_validation():
    monitor = CollapseMonitor(CollapseConfig(), starts_active=False)
    assert states(monitor, 0, 0, 0) == ["waking", "collapsing", "collapsing"]


def test_active_start_collapses_at_first_validation():
    assert states(CollapseMonitor(CollapseConfig(), starts_active=True), 15) == ["collapsing"]
    monitor = CollapseMonitor(CollapseConfig(), starts_active=True)
    assert states(monitor, 32, 16, 15) == ["healthy", "healthy", "collapsing"]


def test_report_has_number_of_inactive_dimensions_and_advice():
    report = CollapseMonitor(CollapseConfig(), starts_active=True).update(1, **VALIDATION)
    assert str(report).startswith("collapsing: 31 of 32 dimensions inactive; try a lower beta.max")


def test_decoder_that_ignores_the_latent_is_collapsing():
    monitor = CollapseMonitor(CollapseConfig(), starts_active=True)
    report = monitor.update(32, **VALIDATION | {"l1_shuffled": 0.0301})
    assert report.state == "collapsing"
    assert "another page's latent" in report.reason
    assert monitor.update(32, **VALIDATION | {"l1_shuffled": None}).state == "healthy"


@pytest.mark.parametrize("action", ["warn", "stop"])
def test_other_actions_set_no_cap(action):
    monitor = CollapseMonitor(CollapseConfig(action=action), starts_active=True)
    assert states(monitor, 0, 0) == ["collapsing", "collapsing"]
    assert monitor.cap is None


def test_cap_falls_while_collapsing_and_rises_while_healthy():
    monitor = CollapseMonitor(CollapseConfig(action="hold_beta"), starts_active=True)
    scheduled, caps = 8.0, []
    for active in (0, 0, 5, 20, 20):
        beta = scheduled if monitor.cap is None else min(scheduled, monitor.cap)
        monitor.update(active, **VALIDATION | {"beta": beta})
        caps.append(monitor.cap)
    low = CAP_DECREASE**2 * scheduled
    assert caps == [CAP_DECREASE * scheduled, low, low, CAP_INCREASE * low, CAP_INCREASE**2 * low]
    # Once the schedule is below the cap, the cap ends.
    monitor.update(20, **VALIDATION | {"beta": low})
    assert monitor.cap is None


def test_beta_of_zero_sets_no_cap():
    monitor = CollapseMonitor(CollapseConfig(action="hold_beta"), starts_active=True)
    monitor.update(0, **VALIDATION | {"beta": 0.0})
    assert monitor.cap is None


def test_resumed_monitor_continues():
    config = CollapseConfig(action="hold_beta")
    monitor, other = (CollapseMonitor(config, starts_active=False) for _ in range(2))
    states(monitor, 0, 0, 9)
    other.load(monitor.state())
    assert other.state() == monitor.state()
    assert states(other, 9) == states(monitor, 9) == ["collapsing"]
    assert other.cap == monitor.cap


def test_active_dimensions_are_bounded_by_the_number_of_pages():
    report = CollapseMonitor(CollapseConfig(), starts_active=True).update(128, **VALIDATION)
    assert str(report) == "healthy: 32 of 32 dimensions active"


def test_few_pages_do_not_make_all_dimensions_look_active():
    monitor = CollapseMonitor(CollapseConfig(), starts_active=True)
    report = monitor.update(128, **VALIDATION | {"latent_dim": 128})
    assert str(report) == (
        "healthy: 32 of the 32 dimensions that the validation pages can show (128 in all) active"
    )
