"""Clusters of all pages, on pages of known kinds."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from shards.errors import UserError
from tests.vaetrain.clustering.made_pages import kinds_of_pages, one_gaussian
from vaetrain.clustering.clusters import ClusterOptions, cluster_pages
from vaetrain.clustering.subset import MAX_PER_TEMPLATE
from vaetrain.clustering.vectors import Vectors

AUTO, OF_THREE = ClusterOptions(), ClusterOptions(clusters=3)


def with_one_template() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pages of three kinds and 200 pages of one template: pages, kinds, groups."""
    pages, kinds = kinds_of_pages(4, 24)
    many = np.concatenate([pages[kinds < 3], kinds_of_pages(4, 200, seed=1)[0][-200:]])
    kind = np.append(kinds[kinds < 3], np.full(200, 3))
    return many, kind, np.append(np.arange(72), np.full(200, 72))


def test_the_kinds_are_found_and_numbered_by_size():
    pages, kinds = kinds_of_pages(3, 30)
    kept = np.flatnonzero((kinds != 1) | (np.arange(90) % 3 > 0))
    shuffled = np.random.default_rng(0).permutation(kept)
    pages, kinds = pages[shuffled], kinds[shuffled]
    found = cluster_pages(Vectors([pages[:50], pages[50:]]), np.arange(len(pages)), AUTO)
    assert found.count == 3
    assert adjusted_rand_score(kinds, found.labels) == 1
    assert np.bincount(found.labels).tolist() == [30, 30, 20]
    assert (found.probabilities == 1).all()
    assert found.labels[found.medoids].tolist() == [0, 1, 2]
    assert found.stabilities.tolist() == [1, 1, 1]
    assert found.verdict.startswith("3 clusters, which one Gaussian does not explain")
    for cluster in range(3):
        own = pages[found.labels == cluster]
        expected = np.linalg.norm(own - own.mean(axis=0), axis=1)
        assert found.distances[found.labels == cluster] == pytest.approx(expected, abs=1e-4)
        medoid = np.linalg.norm(own[:, None] - own, axis=2).sum(axis=1).argmin()
        assert found.medoids[cluster] == np.flatnonzero(found.labels == cluster)[medoid]


def test_progress_ends_at_its_total():
    totals, done = {}, {}

    def progress(name: str, total: int):
        totals[name], done[name] = total, 0

        def advance():
            done[name] += 1

        return advance

    cluster_pages(Vectors([kinds_of_pages(3, 10)[0]]), np.arange(30), OF_THREE, progress)
    assert done == totals


def test_pages_without_structure_are_one_cluster_and_it_is_said():
    found = cluster_pages(Vectors([one_gaussian(80)]), np.arange(80), AUTO)
    assert (found.count, set(found.labels)) == (1, {0})
    assert found.verdict.startswith("no structure: ")
    assert "one cluster written" in found.verdict
    assert (found.probabilities == 1).all()


def test_clusters_that_were_asked_for_are_made_without_structure_and_it_is_said():
    found = cluster_pages(Vectors([one_gaussian(80)]), np.arange(80), OF_THREE)
    assert found.count == 3
    assert found.verdict.startswith("no structure: ")
    assert "3 clusters written" in found.verdict
    assert found.probabilities.min() < 1


@pytest.mark.parametrize("options", [AUTO, OF_THREE])
def test_a_template_of_200_pages_is_no_cluster(options):
    pages, kinds, groups = with_one_template()
    found = cluster_pages(Vectors([pages]), groups, options)
    assert found.count == 3
    assert found.fitted == 72 + MAX_PER_TEMPLATE
    assert adjusted_rand_score(kinds[:72], found.labels[:72]) == 1


def test_a_template_is_a_cluster_if_pages_count_for_themselves():
    pages, kinds, groups = with_one_template()
    found = cluster_pages(Vectors([pages]), groups, ClusterOptions(by_page=True))
    assert adjusted_rand_score(kinds, found.labels) == 1


def test_near_duplicates_count_once():
    pages, kinds = kinds_of_pages(3, 20)
    # 150 copies of a page at the edge of its kind; without a template every page is a group.
    copies = np.repeat(pages[:1] + 0.8, 150, axis=0)
    copies += np.random.default_rng(0).normal(0, 0.005, copies.shape)
    everything = np.concatenate([pages, copies.astype(np.float32)])
    found = cluster_pages(Vectors([everything]), np.arange(210), OF_THREE)
    assert found.near_duplicates == 149
    assert adjusted_rand_score(kinds, found.labels[:60]) == 1


def test_few_templates_count_by_page():
    pages, kinds = kinds_of_pages(3, 20)
    found = cluster_pages(Vectors([pages]), kinds, AUTO)
    assert found.options.by_page
    assert adjusted_rand_score(kinds, found.labels) == 1


@pytest.mark.parametrize("method", ["gmm", "hdbscan"])
def test_other_methods_find_the_kinds(method):
    pages, kinds = kinds_of_pages(3, 26)
    found = cluster_pages(Vectors([pages]), np.arange(78), ClusterOptions(method))
    inside = found.labels >= 0
    assert found.count == 3
    assert inside.mean() > 0.8
    assert adjusted_rand_score(kinds[inside], found.labels[inside]) == 1


def test_too_few_pages_are_refused():
    with pytest.raises(UserError, match="9 pages to cluster"):
        cluster_pages(Vectors([one_gaussian(9)]), np.arange(9), AUTO)
    with pytest.raises(UserError, match=r"--clusters: is 30, at most 20 are possible"):
        cluster_pages(Vectors([one_gaussian(40)]), np.arange(40), ClusterOptions(clusters=30))
