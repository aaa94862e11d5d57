"""Retrieval and clustering metrics, compared with loops and scikit-learn."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score
from sklearn.metrics import normalized_mutual_info_score as nmi

from tests.vaetrain.evaluation.conftest import single_page
from vaetrain.evaluation import retrieval
from vaetrain.evaluation.layout_iou import neighbour_iou
from vaetrain.evaluation.retrieval import (
    PageLabels,
    RetrievalMetrics,
    knn_accuracy,
    label_metrics,
    nearest_of_other_templates,
    retrieval_precision,
    vector_metrics,
    width_metrics,
)

N, D = 90, 5


@pytest.fixture
def pages() -> tuple[torch.Tensor, PageLabels]:
    """Vectors scattered around the centre of their label, 0 to 4; -1 is no label."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 5, (N,), generator=generator)
    templates = torch.randint(-1, 12, (N,), generator=generator)
    centres = torch.randn(6, D, generator=generator)
    vectors = centres[labels] + 0.8 * torch.randn(N, D, generator=generator)
    return vectors, PageLabels(labels, templates)


def reference_neighbours(vectors: np.ndarray, templates: list[int], page: int) -> list[int]:
    others = [
        (math.dist(vectors[page], vectors[other]), other)
        for other in range(len(vectors))
        if other != page and (templates[other] != templates[page] or templates[page] == -1)
    ]
    return [other for _, other in sorted(others)]


def reference_accuracy(vectors: np.ndarray, labels: list[int], templates: list[int]) -> float:
    right = 0
    for page in range(len(vectors)):
        nearest = reference_neighbours(vectors, templates, page)[:5]
        votes = Counter(labels[other] for other in nearest)
        best = [label for label in votes if votes[label] == max(votes.values())]
        winner = next(labels[other] for other in nearest if labels[other] in best)
        right += winner == labels[page]
    return right / len(vectors)


def known(vectors: torch.Tensor, names: PageLabels) -> tuple[np.ndarray, list[int], list[int]]:
    keep = names.labels >= 0
    return (
        vectors[keep].double().numpy(),
        names.labels[keep].tolist(),
        names.templates[keep].tolist(),
    )


@pytest.mark.parametrize("chunk", [512, 7])
def test_label_metrics(pages, chunk, monkeypatch):
    monkeypatch.setattr(retrieval, "CHUNK", chunk)
    metrics = label_metrics(*pages)
    vectors, labels, templates = known(*pages)
    assert metrics["knn_label_accuracy"] == pytest.approx(
        reference_accuracy(vectors, labels, templates)
    )
    shares = [
        np.mean([labels[o] == labels[p] for o in reference_neighbours(vectors, templates, p)[:10]])
        for p in range(len(labels))
    ]
    assert metrics["precision_at_10"] == pytest.approx(np.mean(shares))
    means = KMeans(5, n_init=10, random_state=0).fit(vectors.astype(np.float32))
    assert metrics["nmi"] == pytest.approx(nmi(labels, means.labels_))
    assert metrics["ari"] == pytest.approx(adjusted_rand_score(labels, means.labels_))
    assert metrics["ami"] == pytest.approx(adjusted_mutual_info_score(labels, means.labels_))
    assert 0.3 < metrics["knn_label_accuracy"] < 1


def test_nmi_is_mutual_information_divided_by_mean_entropy(pages):
    """The formula of NMI for the clusters of k-means."""
    vectors, labels, _ = known(*pages)
    clusters = KMeans(5, n_init=10, random_state=0).fit(vectors.astype(np.float32)).labels_
    joint = np.histogram2d(labels, clusters, bins=5)[0] / len(labels)

    def entropy(shares: np.ndarray) -> float:
        return -sum(p * math.log(p) for p in shares.flatten() if p > 0)

    of_labels, of_clusters = entropy(joint.sum(axis=1)), entropy(joint.sum(axis=0))
    information = of_labels + of_clusters - entropy(joint)
    expected = information / ((of_labels + of_clusters) / 2)
    assert label_metrics(*pages)["nmi"] == pytest.approx(expected)


def test_neighbours_are_of_other_templates(pages):
    vectors, names = pages
    neighbours = nearest_of_other_templates(vectors, names.templates, 10)
    for page, row in enumerate(neighbours.tolist()):
        expected = reference_neighbours(vectors.double().numpy(), names.templates.tolist(), page)
        assert row == expected[:10]


def test_queries_select_rows_of_all_neighbours(pages):
    vectors, names = pages
    queries = torch.tensor([40, 3, 89])
    some = nearest_of_other_templates(vectors, names.templates, 10, queries)
    assert torch.equal(some, nearest_of_other_templates(vectors, names.templates, 10)[queries])


def test_pages_of_the_same_template_are_not_neighbours():
    vectors = torch.tensor([[0.0], [0.0], [5.0], [6.0]])
    neighbours = nearest_of_other_templates(vectors, torch.tensor([3, 3, 4, 4]), 3)
    assert neighbours.tolist() == [[2, 3, -1], [2, 3, -1], [0, 1, -1], [0, 1, -1]]


def test_pages_without_a_template_are_neighbours_of_each_other():
    vectors = torch.tensor([[0.0], [1.0], [3.0]])
    neighbours = nearest_of_other_templates(vectors, torch.full((3,), -1), 2)
    assert neighbours.tolist() == [[1, 2], [0, 2], [1, 0]]


def test_neighbours_by_matrix_product_equal_exact_ones(pages):
    vectors, names = pages
    wide = torch.zeros(N, 2000)
    wide[:, ::400] = vectors
    exact = nearest_of_other_templates(vectors, names.templates, 10)
    assert torch.equal(nearest_of_other_templates(wide, names.templates, 10), exact)


def test_ties_go_to_the_label_of_the_nearer_neighbour():
    labels = torch.tensor([1, 2, 1, 2, 3, 1])
    # Votes 2, 1, 1, 2, 3: labels 1 and 2 have two each, and label 2 has the nearest neighbour.
    tied = torch.tensor([[1, 0, 2, 3, 4]]).expand(6, 5)
    assert knn_accuracy(tied, labels) == pytest.approx(2 / 6)
    reordered = torch.tensor([[4, 0, 1, 3, 2]]).expand(6, 5)
    assert knn_accuracy(reordered, labels) == pytest.approx(3 / 6)


def test_pages_without_neighbours_are_excluded():
    labels = torch.tensor([0, 0, 1])
    neighbours = torch.tensor([[1, 2], [0, -1], [-1, -1]])
    assert knn_accuracy(neighbours, labels) == 1
    assert retrieval_precision(neighbours, labels) == pytest.approx((0.5 + 1) / 2)


def test_undefined_metrics_are_omitted(pages):
    vectors, names = pages
    unlabelled = torch.full_like(names.labels, -1)
    assert label_metrics(vectors, PageLabels(unlabelled, names.templates)) == {}
    one = PageLabels(names.labels, torch.zeros_like(names.templates))
    assert set(label_metrics(vectors, one)) == {"nmi", "ari", "ami"}


def test_viewport_recall_counts_pages_whose_other_width_is_among_the_nearest_of_all():
    """Pages on a line: the pairs are (0, 1), (2, 13) and (14, 15); 16 has no other width."""
    vectors = torch.arange(17.0)[:, None]
    vectors[13:16, 0] += 0.5
    others = torch.full((17,), -1)
    for first, second in ((0, 1), (2, 13), (14, 15)):
        others[first], others[second] = second, first
    # Of equally near pages the earlier counts as nearer: 0 to 1, 13 to 14. 16 is nearest to 15.
    # Of 2 and 13, none is among the ten nearest to the other.
    expected = {"viewport_recall_at_1": 2 / 6, "viewport_recall_at_10": 4 / 6}
    metrics = width_metrics(vectors, others)
    distances = (vectors - vectors.T).abs().fill_diagonal_(torch.inf)
    order = distances.sort(dim=1, stable=True).indices
    has = (others >= 0).nonzero()[:, 0]
    ranks = [order[page].tolist().index(int(others[page])) for page in has]
    assert metrics["viewport_recall_at_1"] == np.mean([rank < 1 for rank in ranks])
    assert metrics["viewport_recall_at_10"] == np.mean([rank < 10 for rank in ranks])
    assert metrics == pytest.approx(expected)


def test_equal_vectors_have_no_perfect_viewport_recall():
    others = torch.arange(40) ^ 1
    metrics = width_metrics(torch.ones(40, 3), others)
    assert metrics["viewport_recall_at_1"] < 0.1
    assert width_metrics(torch.ones(4, 3), torch.full((4,), -1)) == {}


def test_retrieval_metrics_compare_boxes_of_neighbours(trained):
    _, data = trained
    selection = data.select("all")
    metric = RetrievalMetrics(data, selection, data.engine)
    vectors = torch.randn(len(selection), 3, generator=torch.Generator().manual_seed(0))
    metrics = metric.metrics(vectors)
    neighbours = nearest_of_other_templates(vectors, metric.labels.templates, 10)
    values = neighbour_iou(neighbours, metric.boxes)
    assert metrics["box_iou_at_10"] == pytest.approx(float(values[values.isfinite()].mean()))
    assert metrics.keys() == {"box_iou_at_10", *vector_metrics(vectors, metric.labels)}


def test_boxes_lie_on_the_page(trained):
    _, data = trained
    metric = RetrievalMetrics(data, data.select("all"), data.engine)
    for number, boxes in zip(metric.ids.tolist(), metric.boxes, strict=True):
        page = single_page(data, number)
        assert len(boxes)
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2] <= page.size[1]).all()
        assert (boxes[:, 3] <= int(page.heights)).all()
