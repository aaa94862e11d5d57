"""Values of every page, gathered from all ranks."""

import torch

from shards.reading.batch import Batch
from tests.support.engines import FakeEngine
from vaetrain.inference.each_page import for_each_page


def blank_batch(ids: list[int]) -> Batch:
    count = len(ids)
    return Batch(
        ids=torch.tensor(ids),
        epochs=torch.zeros(count, dtype=torch.long),
        heights=torch.arange(count) + 10,
        size=(32, 16),
        tops=torch.zeros(count, dtype=torch.long),
        canvas=torch.full((count, 2), 16.0),
        boxes=None,
        owner=None,
        pixels=torch.zeros(count, 1, 32, 16, dtype=torch.uint8),
    )


def test_rows_of_all_ranks_are_sorted_by_id(monkeypatch):
    other_rank = torch.tensor([[3.0, 20, 30], [0, 21, 0]], dtype=torch.float64)
    engine = FakeEngine(world_size=2)
    monkeypatch.setattr(engine, "gather_ragged", lambda rows: torch.cat([rows, other_rank]))
    batches = [blank_batch([5, 1]), None]
    ids, heights, values = for_each_page(lambda b: 10.0 * b.ids[:, None], 1, batches, engine)
    assert ids.tolist() == [0, 1, 3, 5]
    assert heights.tolist() == [21, 11, 20, 10]
    assert values.tolist() == [[0], [10], [30], [50]]
    assert values.dtype == torch.float64
