"""Agreement with labels, compared with scikit-learn and with known answers."""

import numpy as np
import pytest
from sklearn import metrics

from vaetrain.clustering import agreement as module
from vaetrain.clustering.agreement import agreement

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 4, 200)
GROUPS = np.arange(200) // 4


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(module, "RESAMPLES", 60)


def test_values_are_those_of_scikit_learn_without_unlabelled_pages():
    labels = np.where(np.arange(200) % 10 == 0, -1, LABELS)
    clusters = np.where(RANDOM.random(200) < 0.5, LABELS, RANDOM.integers(0, 3, 200))
    found = agreement(labels, {"a": clusters}, GROUPS)["a"]
    known = labels >= 0
    pair = labels[known], clusters[known]
    assert found["nmi"].value == pytest.approx(metrics.normalized_mutual_info_score(*pair))
    assert found["ari"].value == pytest.approx(metrics.adjusted_rand_score(*pair))
    assert found["ami"].value == pytest.approx(metrics.adjusted_mutual_info_score(*pair))
    assert found["ari"].low < found["ari"].value < found["ari"].high


def test_random_clusters_have_an_interval_around_zero_and_equal_ones_none():
    found = agreement(LABELS, {"a": RANDOM.integers(0, 4, 200), "b": LABELS}, GROUPS)
    assert found["a"]["ari"].low < 0 < found["a"]["ari"].high
    assert [found["b"]["ari"].low, found["b"]["ari"].high] == [1, 1]
    assert found["a - b"]["ari"].high < -0.5


def test_intervals_are_wider_with_fewer_templates():
    clusters = np.where(RANDOM.random(200) < 0.5, LABELS, 0)
    by_label = np.argsort(LABELS, kind="stable")
    wide = agreement(LABELS[by_label], {"a": clusters[by_label]}, np.arange(200) // 40)["a"]["ari"]
    narrow = agreement(LABELS, {"a": clusters}, np.arange(200))["a"]["ari"]
    assert wide.value == pytest.approx(narrow.value)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


@pytest.mark.parametrize(
    ("labels", "groups"), [(np.full(9, -1), np.arange(9)), (np.arange(9) % 2, np.zeros(9, int))]
)
def test_nothing_is_compared_without_two_labels_and_two_templates(labels, groups):
    assert agreement(labels, {"a": np.arange(9) % 3}, groups) == {}
