"""Warning about skipped steps, ids of steps; sums are tested in tests/distributed, by runs."""

import numpy as np
import pytest
import torch

from shards.format.index import RECORD
from shards.reading.height_ladder import height_ladder
from shards.reading.partitioned_order import build_order
from shards.reading.selection import Selection
from tests.support.engines import FakeEngine
from vaetrain.meters import MAX_LISTED, ids_hash, ids_of_steps, skipped_steps_warning


class Gathering(FakeEngine):
    """A rank that gathers its own rows and those of the ranks after it."""

    def __init__(self, rank: int, world_size: int, rows: list[torch.Tensor]) -> None:
        super().__init__(rank, world_size)
        self.rows = rows

    def gather_to_main(self, rows):
        self.rows.insert(0, rows)
        return torch.cat(self.rows) if self.is_main else None


@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.parametrize("world_size", [1, 2, 8])
def test_ids_of_steps_are_found_by_one_rank_of_each_team(partitions, world_size):
    table = np.zeros(640, RECORD)
    table["width"], table["height"] = 128, np.arange(640) % 400 + 50
    selection = Selection(table, range(640), np.arange(0, 641, 40), 128, 512)
    options = {"seed": 0, "global_batch_size": 16, "window_shards": 2}
    ladder = height_ladder(512, 16)
    order = build_order(selection, partitions=partitions, ladder=ladder, **options)
    steps, rows = range(3, 6), []
    for rank in reversed(range(world_size)):
        found = ids_of_steps(order, steps, Gathering(rank, world_size, rows))
        assert (found is None) == (rank > 0)
    expected = [order.step(step)[0] for step in steps]
    assert [sorted(ids) for ids in found] == [sorted(ids) for ids in expected]
    assert ids_hash(found) == ids_hash(expected)
    asked = [len(each) for each in rows]
    teams = min(partitions, world_size)
    assert asked == ([] if teams == 1 else [16 // teams, *[0] * (world_size // teams - 1)] * teams)


def test_warning_lists_a_limited_number_of_steps_and_pages():
    line = skipped_steps_warning(
        [[3, 5], list(range(100, 100 + MAX_LISTED + 2))], steps=9, images=72
    )
    assert line.startswith("warning: 2 of 9 steps up to 72 images skipped because ")
    assert "pages: 3, 5; 100, 101, " in line
    assert line.endswith(f"{100 + MAX_LISTED - 1} and 2 more")
    assert skipped_steps_warning([[7]] * (MAX_LISTED + 5), 50, 400).count("7") == MAX_LISTED
