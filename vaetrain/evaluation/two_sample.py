"""Two-sample test by a classifier: can pages be told from real ones? (Lopez-Paz and Oquab 2017)

The classifier is scikit-learn's gradient-boosted trees on the features of `page_features`. Its
accuracy is measured on pages of groups that it was not trained on; real pages are grouped by
template, because pages of one template are near-duplicates.
"""

from __future__ import annotations

import numpy as np

FOLDS = 5
SEED = 0
# Small trees: a test of 512 + 512 pages takes under a second of one core.
TREES = {"max_iter": 50, "max_leaf_nodes": 8, "max_bins": 32, "early_stopping": False}


def two_sample_accuracy(
    real: np.ndarray, other: np.ndarray, real_groups: np.ndarray, other_groups: np.ndarray
) -> float:
    """Return the cross-validated accuracy of telling other pages from real ones.

    0.5: the classifier cannot tell them apart; 1: it always can. It is the mean of the accuracies
    on real and on other pages. Of a larger set, only as many evenly spaced pages as the other has
    are used: with class weights instead, scikit-learn bins the features 20 times slower.

    Args:
        real, other: float (N, F) and (M, F), features.
        real_groups, other_groups: (N,) and (M,), names. Pages of a group, of either set, are in one
            fold. If a set has fewer than `FOLDS` groups, each of its pages is a group.
    """
    # A local import: it takes a second, and training starts without it.
    from sklearn.ensemble import HistGradientBoostingClassifier

    count = min(len(real), len(other))
    real, other, real_groups, other_groups = (
        part[np.linspace(0, len(part) - 1, count).round().astype(int)]
        for part in (real, other, real_groups, other_groups)
    )
    groups = [
        names if len(np.unique(names)) >= FOLDS else single_groups(count, kind)
        for names, kind in ((real_groups, "real"), (other_groups, "other"))
    ]
    features = np.concatenate([real, other])
    is_other = np.repeat([0, 1], count)
    fold = group_folds(np.concatenate(groups), is_other)
    predicted = np.zeros(len(features), np.int64)
    for number in range(FOLDS):
        held_out = fold == number
        if held_out.any():
            rows = features[~held_out]
            # Leaves of 20 pages, the default, could not divide a few dozen pages at all.
            trees = HistGradientBoostingClassifier(
                **TREES, min_samples_leaf=max(1, min(20, len(rows) // 10)), random_state=SEED
            )
            trees.fit(rows, is_other[~held_out])
            predicted[held_out] = trees.predict(features[held_out])
    is_right = predicted == is_other
    return float((is_right[is_other == 0].mean() + is_right[is_other == 1].mean()) / 2)


def single_groups(count: int, kind: str) -> np.ndarray:
    """Return a group for each of `count` pages; `kind` tells those of several sets apart."""
    return np.array([f"/{kind} {number}" for number in range(count)])


def group_folds(groups: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return each page's fold, int (N,), such that all folds have about as many of each class.

    Groups are assigned from the largest to the smallest, each to the fold with the fewest pages of
    its classes. The result does not depend on the order of the pages.

    Args:
        groups: (N,), names.
        classes: int (N,), 0 or 1.
    """
    names, group = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), 2), np.int64)
    np.add.at(counts, (group, classes), 1)
    order = np.random.default_rng(SEED).permutation(len(names))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    load, folds = np.zeros((FOLDS, 2), np.int64), np.zeros(len(names), np.int64)
    for number in order:
        crowded = load @ counts[number]
        folds[number] = np.lexsort((load.sum(axis=1), crowded))[0]
        load[folds[number]] += counts[number]
    return folds[group]
