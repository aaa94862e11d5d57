"""Found boxes as records that the project's own reader reads."""

import json

import numpy as np
import pytest

from shards.format.layout import BadLayout, parse_layout
from tests.vaetrain.layouts.test_boxes import PAGE, drawn
from vaetrain.layouts.records import layout_record


@pytest.mark.parametrize(
    "boxes",
    [
        [PAGE, [4, 4, 30, 36], [6, 6, 10, 9], [33, 4, 60, 39]],
        [PAGE, [1.3, 1.7, 30.2, 38.4], [3.5, 3.25, 10.4, 8.1]],
        [[2, 2, 20, 10], [22, 2, 40, 10], [24, 4, 30, 8]],
        [[i, i, 64 - i, 40 - i] for i in range(20)],
    ],
    ids=["whole pixels", "parts of pixels", "several roots", "deep"],
)
def test_a_record_is_read_as_the_boxes_that_were_drawn(boxes):
    record = json.loads(json.dumps(layout_record(drawn(boxes), {"id": "a", "label": "login"})))
    layout = parse_layout(record)
    np.testing.assert_allclose(layout.boxes, boxes, atol=0.02)
    assert (layout.width, layout.height) == (64, 40)
    assert (layout.meta["id"], layout.meta["label"]) == ("a", "login")
    assert (record["n"], record["depth"]) == (len(boxes), layout.depth)


def test_a_page_without_boxes_has_a_record_that_the_reader_refuses():
    record = layout_record(np.zeros((8, 16)), {"id": "a"})
    assert record == {"id": "a", "w": 16, "h": 8, "n": 0, "depth": 0, "r": {}}
    with pytest.raises(BadLayout, match="no visible box"):
        parse_layout(record)
