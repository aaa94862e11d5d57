"""Advice of the batch-size study, and the schema of its details."""

from __future__ import annotations

import pytest

from benchmarks.support.batch_size import advice
from tests.benchmarks.nested import with_value
from tests.benchmarks.support.batch_size.conftest import speed, training


def test_advice_is_the_smallest_batch_within_five_percent_of_the_best(details):
    advice.check(details)
    first, *rest = details["advice"]
    assert first == "Use micro 8, global 16 (2 accumulation steps on one device)."
    text = " ".join(rest)
    assert "A micro batch of 8 has 98 images/s, the fastest 100." in text
    assert "A larger one only needs more memory: 180 MB at 16 instead of 100." in text
    assert "A global batch of 16 (learning rate 0.001) reached the validation loss 1.25" in text
    assert "32 (sqrt) did not" in text
    assert "about 40 pages (95%: 20 - no upper bound) after 200 images" in text
    assert "checkpointing: 0.67 x the plain speed (slower), 0.50 x the memory." in text
    assert "bf16: 1.50 x the plain speed (faster)." in text
    assert "channels last: 1.06 x the plain speed (within noise)." in text
    assert "plain: 700 in 8 GiB" in text
    assert "Predicted peaks were 1.100 to 1.100 of those measured on this machine." in text


def test_micro_batch_is_at_most_the_global_batch(details):
    details["trainings"] = [training(4, 100, 60.0), training(8, 300, 90.0)]
    assert advice.advice(details)[0] == "Use micro and global 4."


def test_largest_timed_micro_batch_may_not_be_the_fastest(details):
    details["speed"][2] = speed(16, 2, 200.0)
    assert "a larger one may be faster" in advice.advice(details)[1]


def test_own_batch_is_kept_if_no_training_reached_the_target(details):
    details["trainings"] = [training(16, None, 90.0)]
    first, _, reason, *_ = advice.advice(details)
    assert first == "Use micro and global 8."
    assert "No training reached a validation loss of 1.25" in reason


def test_a_critical_batch_below_one_page_is_not_called_zero(details):
    details["noise"][-1] |= {"pages": 0.31, "low": 0.04, "high": 2.4}
    (sentence,) = advice.critical(details)
    assert "about 0.3 pages (95%: under 0.1 - 2.4)" in sentence


def test_critical_batch_is_unknown_without_a_finite_noise_scale(details):
    details["noise"] = details["noise"][2:]
    (sentence,) = advice.critical(details)
    assert "The critical batch is unknown" in sentence


@pytest.mark.parametrize(
    ("path", "value"),
    [(("target",), None), (("speed", 0, "median"), 0), (("fits", 0, "gib"), 1.5), (("x",), 1)],
)
def test_details_of_another_schema_are_refused(details, path, value):
    broken = with_value(details, path, value)
    with pytest.raises(ValueError, match=r"^\$"):
        advice.check(broken)
