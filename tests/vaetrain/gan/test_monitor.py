"""Warnings that a discriminator dominates or is dead."""

import json

import pytest

from vaetrain.gan.monitor import LINES, DiscriminatorMonitor


def messages(monitor: DiscriminatorMonitor, *accuracies: float) -> list[str]:
    return [line for accuracy in accuracies for line in monitor.update(accuracy)]


@pytest.mark.parametrize(("accuracy", "word"), [(0.99, "dominates"), (0.5, "cannot tell")])
def test_warning_is_given_once_with_advice(accuracy, word):
    monitor = DiscriminatorMonitor()
    assert messages(monitor, *[accuracy] * (LINES - 1)) == []
    (line,) = messages(monitor, *[accuracy] * 10)
    assert word in line
    assert "gan.lr" in line
    assert "\n" not in line


def test_balanced_accuracies_give_no_warning():
    assert messages(DiscriminatorMonitor(), *[0.7, 0.9, 0.62, 0.97, 0.55] * 5) == []


def test_fewer_lines_than_the_minimum_give_no_warning():
    assert messages(DiscriminatorMonitor(), *[0.99, 0.99, 0.9, 0.5, 0.5, 0.8] * 5) == []


def test_hysteresis_around_a_threshold():
    monitor = DiscriminatorMonitor()
    assert len(messages(monitor, *[0.99] * LINES)) == 1
    assert messages(monitor, *[0.96, 0.985, 0.955, 0.999] * 10) == []
    assert monitor.status == "dominates"


def test_end_of_a_status_is_logged():
    monitor = DiscriminatorMonitor()
    messages(monitor, *[0.5] * LINES)
    assert messages(monitor, 0.7, 0.58, 0.7, 0.7) == []
    (line,) = messages(monitor, 0.7)
    assert line.startswith("resolved: ")
    assert monitor.status == "well"


def test_change_from_dominating_to_dead():
    monitor = DiscriminatorMonitor()
    lines = messages(monitor, *[0.99] * LINES, *[0.4] * LINES)
    assert [line.partition(":")[0] for line in lines] == ["warning", "resolved", "warning"]
    assert monitor.status == "dead"


def test_resumed_monitor_gives_the_same_messages():
    accuracies = [0.99, 0.99, 0.99, 0.9, 0.9, 0.9, 0.5, 0.5, 0.5]
    whole = messages(DiscriminatorMonitor(), *accuracies)
    monitor, lines = DiscriminatorMonitor(), []
    for accuracy in accuracies:
        resumed = DiscriminatorMonitor()
        resumed.load(json.loads(json.dumps(monitor.state())))
        lines += messages(resumed, accuracy)
        monitor = resumed
    assert lines == whole
    assert len(whole) == 3
