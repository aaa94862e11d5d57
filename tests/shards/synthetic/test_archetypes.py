"""Synthetic pages: fixed for each seed, of every archetype, and similar to real pages."""

from collections import Counter

import numpy as np
import pytest

from shards.format.layout import parse_layout
from shards.synthetic.archetypes import ARCHETYPES, generate


@pytest.fixture(scope="module")
def layouts():
    return [parse_layout(generate(0, number)) for number in range(600)]


def test_a_page_is_a_function_of_seed_and_number():
    assert generate(3, 17) == generate(3, 17)
    assert generate(3, 17) != generate(4, 17)
    assert generate(3, 17) != generate(3, 18)


def test_a_page_never_changes_between_versions():
    """A later version must generate the same shards for the same seed."""
    record = generate(0, 0)
    found = (record["label"], record["template"], record["w"], record["h"])
    assert found == ("home", "synthetic-12", 390, 3889)


def test_every_archetype_appears_at_both_widths(layouts):
    assert len(ARCHETYPES) >= 15
    seen = Counter((layout.meta["label"], layout.width) for layout in layouts)
    assert seen.keys() == {(label, width) for label in ARCHETYPES for width in (1280, 390)}


def test_sizes_are_similar_to_real_pages(layouts):
    """Real pages: median height 1,750 px, 116 boxes and 10 levels."""
    heights = np.array([layout.height for layout in layouts])
    assert 500 <= heights.min() < 800
    assert 3500 < heights.max() <= 4000
    assert 1200 < np.median(heights) < 2300
    assert 80 < np.median([len(layout.boxes) for layout in layouts]) < 160
    depths = [layout.depth for layout in layouts]
    assert 8 < np.median(depths) < 13
    assert max(depths) >= 15


def test_boxes_lie_on_the_canvas(layouts):
    for layout in layouts:
        x0, y0, x1, y1 = layout.boxes.T
        assert (np.minimum(x0, y0) >= 0).all()
        assert (np.minimum(x1 - x0, y1 - y0) > 0).all()
        assert (np.maximum(x1 - layout.width, y1 - layout.height) <= 0).all()


def test_pages_of_a_template_share_their_chrome(layouts):
    """Boxes of the top 60 px of desktop pages are more alike within a template than across."""

    def tops(layout):
        return {tuple(box) for box in layout.boxes.tolist() if box[3] < 60}

    pages = [layout for layout in layouts if layout.width == 1280 and len(tops(layout)) > 5]
    shared = {True: [], False: []}
    for first in pages:
        for other in pages[:40]:
            if other is not first:
                same = first.meta["template"] == other.meta["template"]
                both = tops(first) & tops(other)
                shared[same].append(len(both) / len(tops(first) | tops(other)))
    assert np.mean(shared[True]) > 0.5
    assert np.mean(shared[True]) > 2 * np.mean(shared[False])
