"""Pages that clusters are fitted to."""

import numpy as np

from vaetrain.clustering import subset


def test_pages_without_a_template_are_groups_of_their_own():
    groups = subset.page_groups(np.array([-1, 4, -1, 4, 7]))
    assert groups[1] == groups[3]
    assert sorted(np.unique(groups)) == [0, 1, 2, 3]


def test_few_pages_of_each_template_are_chosen_and_the_first_of_all_come_first():
    groups = np.concatenate([np.zeros(500, np.int64), np.repeat(np.arange(1, 21), 3)])
    chosen = subset.choose_pages(groups, 10_000, seed=0)
    assert len(set(chosen)) == len(chosen) == subset.MAX_PER_TEMPLATE + 60
    assert (groups[chosen] == 0).sum() == subset.MAX_PER_TEMPLATE
    assert sorted(groups[chosen[:21]]) == list(range(21))
    np.testing.assert_array_equal(subset.choose_pages(groups, 30, seed=0), chosen[:30])
    assert set(subset.choose_pages(groups, 30, seed=1)) != set(chosen[:30])


def test_near_duplicates_are_left_out_as_if_pages_were_compared_one_by_one(monkeypatch):
    monkeypatch.setattr(subset, "CHUNK", 7)
    pages = np.random.default_rng(0).standard_normal((60, 2)).astype(np.float32)
    kept: list[int] = []
    for page in range(60):
        if all(np.linalg.norm(pages[page] - pages[other]) > 0.5 for other in kept):
            kept.append(page)
    assert 5 < len(kept) < 50
    assert np.flatnonzero(subset.without_near_duplicates(pages, 0.5)).tolist() == kept
