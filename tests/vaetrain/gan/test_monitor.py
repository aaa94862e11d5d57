"""When a discriminator is said to have died or to dominate."""

import json

import pytest

from vaetrain.gan.monitor import LINES, DiscriminatorMonitor


def said(watch: DiscriminatorMonitor, *accuracies: float) -> list[str]:
    return [line for accuracy in accuracies for line in watch.update(accuracy)]


@pytest.mark.parametrize(("accuracy", "word"), [(0.99, "dominates"), (0.5, "cannot tell")])
def test_it_is_said_once_and_with_what_to_do(accuracy, word):
    watch = DiscriminatorMonitor()
    assert said(watch, *[accuracy] * (LINES - 1)) == []
    (line,) = said(watch, *[accuracy] * 10)
    assert word in line
    assert "gan.lr" in line
    assert "\n" not in line


def test_a_fair_game_says_nothing():
    assert said(DiscriminatorMonitor(), *[0.7, 0.9, 0.62, 0.97, 0.55] * 5) == []


def test_a_single_line_says_nothing():
    assert said(DiscriminatorMonitor(), *[0.99, 0.99, 0.9, 0.5, 0.5, 0.8] * 5) == []


def test_around_a_threshold_it_does_not_chatter():
    watch = DiscriminatorMonitor()
    assert len(said(watch, *[0.99] * LINES)) == 1
    assert said(watch, *[0.96, 0.985, 0.955, 0.999] * 10) == []
    assert watch.verdict == "dominates"


def test_its_end_is_said_too():
    watch = DiscriminatorMonitor()
    said(watch, *[0.5] * LINES)
    assert said(watch, 0.7, 0.58, 0.7, 0.7) == []
    (line,) = said(watch, 0.7)
    assert line.startswith("over: ")
    assert watch.verdict == "well"


def test_from_one_end_to_the_other():
    watch = DiscriminatorMonitor()
    lines = said(watch, *[0.99] * LINES, *[0.4] * LINES)
    assert [line.partition(":")[0] for line in lines] == ["warning", "over", "warning"]
    assert watch.verdict == "dead"


def test_a_resumed_watch_goes_on():
    accuracies = [0.99, 0.99, 0.99, 0.9, 0.9, 0.9, 0.5, 0.5, 0.5]
    whole = said(DiscriminatorMonitor(), *accuracies)
    watch, lines = DiscriminatorMonitor(), []
    for accuracy in accuracies:
        resumed = DiscriminatorMonitor()
        resumed.load(json.loads(json.dumps(watch.state())))
        lines += said(resumed, accuracy)
        watch = resumed
    assert lines == whole
    assert len(whole) == 3
