"""Embedding metrics against loops and scikit-learn."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score
from sklearn.metrics import normalized_mutual_info_score as nmi
from torchvision.ops import box_iou

from vaetrain.evaluation import retrieval
from vaetrain.evaluation.retrieval import (
    PageLabels,
    knn_accuracy,
    label_metrics,
    layout_iou,
    nearest_of_other_templates,
    retrieval_iou,
    retrieval_precision,
)

N, D = 90, 5


@pytest.fixture
def pages() -> tuple[torch.Tensor, PageLabels]:
    """Vectors that lie around their label's centre; 0 to 4, and -1 for none of it."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 5, (N,), generator=draw)
    templates = torch.randint(-1, 12, (N,), generator=draw)
    centres = torch.randn(6, D, generator=draw)
    vectors = centres[labels] + 0.8 * torch.randn(N, D, generator=draw)
    return vectors, PageLabels(labels, templates)


def neighbours_by_hand(vectors: np.ndarray, templates: list[int], page: int) -> list[int]:
    others = [
        (math.dist(vectors[page], vectors[other]), other)
        for other in range(len(vectors))
        if other != page and (templates[other] != templates[page] or templates[page] == -1)
    ]
    return [other for _, other in sorted(others)]


def accuracy_by_hand(vectors: np.ndarray, labels: list[int], templates: list[int]) -> float:
    right = 0
    for page in range(len(vectors)):
        found = neighbours_by_hand(vectors, templates, page)[:5]
        votes = Counter(labels[other] for other in found)
        best = [label for label in votes if votes[label] == max(votes.values())]
        winner = next(labels[other] for other in found if labels[other] in best)
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
        accuracy_by_hand(vectors, labels, templates)
    )
    shares = [
        np.mean([labels[o] == labels[p] for o in neighbours_by_hand(vectors, templates, p)[:10]])
        for p in range(len(labels))
    ]
    assert metrics["precision_at_10"] == pytest.approx(np.mean(shares))
    means = KMeans(5, n_init=10, random_state=0).fit(vectors.astype(np.float32))
    assert metrics["nmi"] == pytest.approx(nmi(labels, means.labels_))
    assert metrics["ari"] == pytest.approx(adjusted_rand_score(labels, means.labels_))
    assert metrics["ami"] == pytest.approx(adjusted_mutual_info_score(labels, means.labels_))
    assert 0.3 < metrics["knn_label_accuracy"] < 1


def test_nmi_is_the_information_over_the_mean_entropy(pages):
    """The formula itself, for the clusters k-means finds."""
    vectors, labels, _ = known(*pages)
    clusters = KMeans(5, n_init=10, random_state=0).fit(vectors.astype(np.float32)).labels_
    joint = np.histogram2d(labels, clusters, bins=5)[0] / len(labels)

    def entropy(shares: np.ndarray) -> float:
        return -sum(p * math.log(p) for p in shares.flatten() if p > 0)

    ours, theirs = entropy(joint.sum(axis=1)), entropy(joint.sum(axis=0))
    expected = (ours + theirs - entropy(joint)) / ((ours + theirs) / 2)
    assert label_metrics(*pages)["nmi"] == pytest.approx(expected)


def test_neighbours_are_of_other_templates(pages):
    vectors, names = pages
    found = nearest_of_other_templates(vectors, names.templates, 10)
    for page, row in enumerate(found.tolist()):
        expected = neighbours_by_hand(vectors.double().numpy(), names.templates.tolist(), page)
        assert row == expected[:10]


def test_some_pages_alone_have_the_neighbours_they_have_among_all(pages):
    vectors, names = pages
    asked = torch.tensor([40, 3, 89])
    some = nearest_of_other_templates(vectors, names.templates, 10, asked)
    assert torch.equal(some, nearest_of_other_templates(vectors, names.templates, 10)[asked])


def test_the_same_page_at_two_widths_is_no_neighbour():
    vectors = torch.tensor([[0.0], [0.0], [5.0], [6.0]])
    found = nearest_of_other_templates(vectors, torch.tensor([3, 3, 4, 4]), 3)
    assert found.tolist() == [[2, 3, -1], [2, 3, -1], [0, 1, -1], [0, 1, -1]]


def test_a_page_without_a_template_is_one_of_its_own():
    vectors = torch.tensor([[0.0], [1.0], [3.0]])
    found = nearest_of_other_templates(vectors, torch.full((3,), -1), 2)
    assert found.tolist() == [[1, 2], [0, 2], [1, 0]]


def test_wide_vectors_have_the_same_neighbours(pages):
    vectors, names = pages
    wide = torch.zeros(N, 2000)
    wide[:, ::400] = vectors
    ours = nearest_of_other_templates(vectors, names.templates, 10)
    assert torch.equal(nearest_of_other_templates(wide, names.templates, 10), ours)


def test_ties_go_to_the_nearer():
    labels = torch.tensor([1, 2, 1, 2, 3, 1])
    # Votes 2, 1, 1, 2, 3: both have two, and label 2 the nearest neighbour.
    tied = torch.tensor([[1, 0, 2, 3, 4]]).expand(6, 5)
    assert knn_accuracy(tied, labels) == pytest.approx(2 / 6)
    other_way = torch.tensor([[4, 0, 1, 3, 2]]).expand(6, 5)
    assert knn_accuracy(other_way, labels) == pytest.approx(3 / 6)


def test_pages_without_neighbours_are_not_asked():
    labels = torch.tensor([0, 0, 1])
    neighbours = torch.tensor([[1, 2], [0, -1], [-1, -1]])
    assert knn_accuracy(neighbours, labels) == 1
    assert retrieval_precision(neighbours, labels) == pytest.approx((0.5 + 1) / 2)


def test_what_cannot_be_measured_is_left_out(pages):
    vectors, names = pages
    none = torch.full_like(names.labels, -1)
    assert label_metrics(vectors, PageLabels(none, names.templates)) == {}
    one = PageLabels(names.labels, torch.zeros_like(names.templates))
    assert set(label_metrics(vectors, one)) == {"nmi", "ari", "ami"}


def some_boxes(count: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    corners = np.sort(draw.uniform(0, 20, (count, 2, 2)), axis=1)
    return corners.reshape(count, 4)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (3, 6), (5, 2)])
def test_layout_iou_is_the_best_of_all_matchings(n, m):
    ours, theirs = some_boxes(n, 1), some_boxes(m, 2)
    table = box_iou(torch.from_numpy(ours), torch.from_numpy(theirs)).numpy()
    table = table if n <= m else table.T
    sums = [
        sum(table[row, column] for row, column in enumerate(columns))
        for columns in itertools.permutations(range(max(n, m)), min(n, m))
    ]
    assert layout_iou(ours, theirs) == pytest.approx(max(sums) / max(n, m))
    assert 0 < layout_iou(ours, theirs) < 1


def test_layouts_are_alike_as_far_as_their_boxes_are():
    boxes = some_boxes(6, 0)
    assert layout_iou(boxes, boxes[::-1]) == pytest.approx(1)
    assert layout_iou(boxes, boxes[:3]) == pytest.approx(0.5)
    assert layout_iou(boxes, boxes + 100) == 0
    none = np.zeros((0, 4))
    assert layout_iou(none, none) == 1
    assert layout_iou(boxes, none) == 0


def test_retrieval_iou_is_the_mean_over_what_was_found():
    boxes = [some_boxes(count, count) for count in (2, 3, 4)]
    found = retrieval_iou(torch.tensor([[1, 2], [0, -1], [-1, -1]]), boxes)
    expected = [layout_iou(boxes[0], boxes[other]) for other in (1, 2)]
    assert found[:2].tolist() == pytest.approx([np.mean(expected), expected[0]])
    assert math.isnan(found[2])
