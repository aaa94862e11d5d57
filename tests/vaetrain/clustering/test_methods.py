"""Methods of clustering, on pages of known kinds."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from tests.vaetrain.clustering.made_pages import kinds_of_pages
from vaetrain.clustering.methods import (
    METHODS,
    NOISE,
    Centres,
    Mixture,
    clusters_of_one_group,
    fit_clusters,
    nearest,
)


@pytest.mark.parametrize(("name", "size"), [("kmeans", 4), ("gmm", 4), ("hdbscan", 10)])
def test_every_method_finds_the_kinds_and_assigns_other_pages_of_them(name, size):
    pages, _ = kinds_of_pages(4, 30)
    fitted = fit_clusters(METHODS[name], pages, np.arange(len(pages)), size, seed=0, starts=3)
    others, other_kinds = kinds_of_pages(4, 30, seed=1)
    labels, probabilities = fitted.assign(others)
    inside = labels != NOISE
    assert fitted.count == 4
    assert inside.mean() > 0.7
    assert adjusted_rand_score(other_kinds[inside], labels[inside]) == 1
    if probabilities is not None:
        assert ((probabilities >= 0) & (probabilities <= 1)).all()


def test_a_mixture_has_the_posterior_of_scikit_learn():
    pages, _ = kinds_of_pages(3, 40)
    fitted = METHODS["gmm"].fit(pages, 3, 0, 1)
    rows = fitted.axes(pages)
    reference = GaussianMixture(3, covariance_type="diag")
    reference.weights_, reference.means_ = fitted.weights, fitted.means
    reference.covariances_ = fitted.variances
    reference.precisions_cholesky_ = fitted.variances**-0.5
    labels, probabilities = fitted.assign(pages)
    np.testing.assert_array_equal(labels, reference.predict(rows))
    np.testing.assert_allclose(probabilities, reference.predict_proba(rows).max(axis=1), rtol=1e-4)


def test_a_page_far_from_all_others_is_noise():
    pages, _ = kinds_of_pages(3, 30)
    fitted = METHODS["hdbscan"].fit(pages, 10, 0, 1)
    labels, probabilities = fitted.assign(pages.max() + np.ones((1, pages.shape[1]), np.float32))
    assert (labels.tolist(), probabilities.tolist()) == ([NOISE], [0])


def test_a_cluster_of_one_template_is_found():
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, NOISE])
    groups = np.array([1, 2, 3, 5, 5, 5, 5, 5, 6, 5])
    assert clusters_of_one_group(labels, groups, 3).tolist() == [1, 2]  # the third is empty


@pytest.mark.parametrize("name", ["kmeans", "gmm"])
def test_a_template_gets_no_cluster_and_the_number_stays(name):
    pages, kinds = kinds_of_pages(4, 30)
    groups = np.where(kinds == 3, 999, np.arange(len(pages)))
    fitted = fit_clusters(METHODS[name], pages, groups, 3, seed=0, starts=3)
    labels, _ = fitted.assign(pages)
    assert fitted.count == 3
    assert adjusted_rand_score(kinds[kinds < 3], labels[kinds < 3]) == 1


def test_a_density_cluster_of_one_template_is_noise():
    pages, kinds = kinds_of_pages(4, 30)
    groups = np.where(kinds == 1, 999, np.arange(len(pages)))
    fitted = fit_clusters(METHODS["hdbscan"], pages, groups, 10, seed=0)
    labels, _ = fitted.assign(pages)
    assert fitted.count == 3
    assert (labels[kinds == 1] == NOISE).all()
    assert set(labels) == {NOISE, 0, 1, 2}


def test_clusters_are_left_out_by_number():
    means = np.arange(4, dtype=np.float32)[:, None]
    pages = np.array([[0.1], [1.1], [2.9]], np.float32)
    assert Centres(means).without([0, 2]).assign(pages)[0].tolist() == [0, 0, 1]
    mixture = Mixture(lambda rows: rows, np.ones(4) / 4, means, np.ones((4, 1)))
    assert mixture.without([0, 2]).assign(pages)[0].tolist() == [0, 0, 1]


def test_the_nearest_centre_is_exact():
    random = np.random.default_rng(0)
    pages, centres = (random.standard_normal((n, 5)).astype(np.float32) for n in (40, 7))
    distances = np.linalg.norm(pages[:, None] - centres, axis=2)
    places, squares = nearest(pages, centres)
    np.testing.assert_array_equal(places, distances.argmin(axis=1))
    np.testing.assert_allclose(squares, distances.min(axis=1) ** 2, rtol=1e-5)
    places, _ = nearest(pages, pages, skip_self=True)
    assert (places != np.arange(40)).all()
