"""The two-sample test on vectors of known distributions, and its folds."""

import numpy as np
import pytest

from vaetrain.evaluation.two_sample import FOLDS, group_folds, single_groups, two_sample_accuracy


def normal(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, 4))
    values[:, 2] += shift
    return values


def accuracy(real: np.ndarray, other: np.ndarray) -> float:
    groups = single_groups(len(real), "a"), single_groups(len(other), "b")
    return two_sample_accuracy(real, other, *groups)


def test_equal_distributions_cannot_be_told_apart():
    assert accuracy(normal(300, 0), normal(300, 1)) == pytest.approx(0.5, abs=0.06)


def test_accuracy_rises_with_the_difference_up_to_that_of_the_best_classifier():
    values = [accuracy(normal(300, 0), normal(300, 1, shift)) for shift in (1, 2, 8)]
    # The best classifier of two normal distributions cuts half-way between their means.
    assert values == pytest.approx([0.69, 0.84, 1.0], abs=0.05)


def test_few_pages_suffice_for_a_clear_difference():
    assert accuracy(normal(20, 0), normal(20, 1, 8.0)) > 0.9


def test_sets_of_different_sizes_count_alike():
    """A classifier that always answers with the larger set would be right in 80%."""
    assert accuracy(normal(400, 0), normal(100, 1)) == pytest.approx(0.5, abs=0.1)


def test_near_duplicates_of_a_group_do_not_help_the_classifier():
    """Each group is a narrow cluster; without grouping, its pages give each other away."""
    centres = normal(60, 0)
    pages = np.repeat(centres, 6, axis=0) + 0.001 * normal(360, 1)
    groups = np.repeat([f"group {number}" for number in range(60)], 6)
    is_real = np.repeat(np.arange(60) % 2 == 0, 6)
    grouped = two_sample_accuracy(
        pages[is_real], pages[~is_real], groups[is_real], groups[~is_real]
    )
    assert grouped < 0.65
    assert accuracy(pages[is_real], pages[~is_real]) > 0.85


def test_result_is_the_same_in_every_call():
    real, other = normal(60, 0), normal(60, 1, 1.0)
    assert accuracy(real, other) == accuracy(real, other)


def test_folds_keep_groups_together_and_balance_both_classes():
    random = np.random.default_rng(0)
    groups = np.concatenate([random.choice(list("abcdefghij"), 100), single_groups(100, "x")])
    classes = np.repeat([0, 1], 100)
    fold = group_folds(groups, classes)
    assert all(len(set(fold[groups == name])) == 1 for name in groups)
    assert set(fold) == set(range(FOLDS))
    per_fold = np.bincount(fold[classes == 1], minlength=FOLDS)
    assert per_fold.tolist() == [20] * FOLDS
    real = np.bincount(fold[classes == 0], minlength=FOLDS)
    assert real.min() > 0


def test_folds_do_not_depend_on_the_order_of_the_pages():
    groups = np.array(list("aabbbcdefgh"))
    classes = np.arange(11) % 2
    order = np.random.default_rng(1).permutation(11)
    shuffled = group_folds(groups[order], classes[order])
    assert (shuffled == group_folds(groups, classes)[order]).all()
