"""Silhouette, stability and the null hypothesis, compared with definitions and known answers."""

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from tests.vaetrain.clustering.made_pages import kinds_of_pages, one_gaussian
from vaetrain.clustering.methods import METHODS, NOISE
from vaetrain.clustering.quality import (
    PageDistances,
    Trial,
    agreement_of_halves,
    best_trial,
    compare_sizes,
    null_pages,
    random_half,
    stability,
    steps,
)

KMEANS = METHODS["kmeans"]


def test_the_silhouette_is_the_usual_one_if_every_page_is_a_group():
    pages, kinds = kinds_of_pages(3, 12)
    labels = (kinds + (np.arange(36) % 5 == 0)) % 3
    value = PageDistances(pages, np.arange(36)).silhouette(labels, 3)
    assert value == pytest.approx(silhouette_score(pages, labels), abs=1e-5)


def test_the_silhouette_compares_pages_of_different_templates_only():
    pages, kinds = kinds_of_pages(3, 10)
    groups, values = np.arange(30) % 7, np.zeros(30)
    for page in range(30):

        def mean(kind, page=page):
            others = (kinds == kind) & (groups != groups[page])
            return np.linalg.norm(pages[others] - pages[page], axis=1).mean()

        own = mean(kinds[page])
        other = min(mean(kind) for kind in range(3) if kind != kinds[page])
        values[page] = (other - own) / max(other, own)
    assert PageDistances(pages, groups).silhouette(kinds, 3) == pytest.approx(
        values.mean(), abs=1e-5
    )


def test_noise_and_clusters_of_one_template_have_a_silhouette_of_zero():
    pages, kinds = kinds_of_pages(3, 10)
    distances = PageDistances(pages, np.arange(30))
    whole = distances.silhouette(kinds, 3)
    noise = distances.silhouette(np.where(kinds == 2, NOISE, kinds), 2)
    assert noise == pytest.approx(whole * 2 / 3, abs=0.05)
    of_templates = PageDistances(pages, kinds)
    assert of_templates.silhouette(kinds, 3) == 0
    assert distances.silhouette(np.zeros(30, np.int64), 1) == 0


def test_halves_hold_whole_templates_and_about_half_of_the_pages():
    groups = np.repeat(np.arange(20), 5)
    half = random_half(groups, np.random.default_rng(0))
    assert half.sum() == 50
    assert all(len(set(half[groups == group])) == 1 for group in range(20))


def test_stability_is_one_for_separate_kinds_and_lower_for_one_gaussian():
    groups = np.arange(90) // 3
    pages, _ = kinds_of_pages(3, 30)
    value, halves = stability(KMEANS, pages, groups, 3, 4, seed=0)
    assert value == 1
    assert len(halves) == 8
    assert stability(KMEANS, one_gaussian(90), groups, 3, 4, seed=0)[0] < 0.7


def test_the_null_hypothesis_has_the_covariances_of_the_pages():
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 5)
    pages = (random.standard_normal((40, 3)) * [3, 1, 0.5])[groups]
    pages = (pages + random.standard_normal((200, 3)) * [0.1, 0.5, 1]).astype(np.float32)
    draws = [null_pages(pages, groups, np.random.default_rng(n)) for n in range(300)]
    centre = pages.mean(axis=0)
    covariance = np.mean([(each - centre).T @ (each - centre) / 200 for each in draws], axis=0)
    assert covariance == pytest.approx(np.cov(pages.T, bias=True), rel=0.1, abs=0.05)

    def within(each: np.ndarray) -> float:
        return np.mean([each[groups == group].var(axis=0) for group in range(40)], axis=0)

    # A draw keeps the clumps of the templates: their pages differ much less than all pages do.
    mean = np.mean([within(each) for each in draws], axis=0)
    assert mean == pytest.approx(within(pages), rel=0.25)


@pytest.mark.parametrize("kinds", [2, 3, 5])
def test_the_number_of_kinds_is_found(kinds):
    pages, _ = kinds_of_pages(kinds, 80 // kinds)
    calls = []
    sizes = KMEANS.sizes(len(pages))
    search = compare_sizes(KMEANS, pages, np.arange(len(pages)), sizes, 0, lambda: calls.append(1))
    assert search.has_structure
    assert search.best.clusters == kinds
    assert search.best.stability > 0.95
    assert len(calls) == steps(sizes)


@pytest.mark.parametrize("seed", [0, 1])
def test_one_gaussian_has_no_structure(seed):
    groups = np.arange(80) // 2
    search = compare_sizes(KMEANS, one_gaussian(80, seed), groups, [2, 3, 5, 8], 0)
    assert not search.has_structure


def test_the_best_trial_has_the_largest_relative_excesses():
    trials = [Trial(n, n, *values) for n, values in enumerate(
        [(0.9, 0.2, 0.8, 0.19), (0.7, 0.25, 0.4, 0.1), (0.5, 0.3, 0.4, 0.16), (0.1, 0.1, 0.4, 0.2)]
    )]  # fmt: skip
    assert best_trial(trials) == 1
    assert best_trial([Trial(5, 5, 0, 0, 0, 0), Trial(3, 3, 0, 0, 0, 0)]) == 1


def test_clusters_are_compared_with_the_most_similar_ones():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, NOISE])
    other = np.array([1, 1, 1, 0, 0, 0, NOISE, NOISE])
    values, (match,) = agreement_of_halves(labels, 2, [(other, 2)])
    assert values.tolist() == [0.75, 0.5]
    assert match.tolist() == [1, 0, -1]
