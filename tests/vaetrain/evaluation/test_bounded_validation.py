"""Validation of many pages: bounded memory and work, and the same numbers as with all rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from shards.reading.selection import Selection
from tests.support.engines import FakeEngine
from tests.support.ranks import ThreadRanks, run_ranks
from vaetrain.data.loading import MAX_COMPARED_PAGES
from vaetrain.evaluation import latents, validation
from vaetrain.evaluation.full_evaluation import MAX_EVALUATED_PAGES
from vaetrain.evaluation.pixel_metrics import GRADIENT_ENERGIES
from vaetrain.evaluation.validation import EncodedSet, SetCollector, compared_ids, summarise

D, K, S, BATCH = 5, 7, 11, 16
NAMES = ["loss", "l1", "ssim", *GRADIENT_ENERGIES]
SIZES = [len(NAMES), D, D, K]
ROW_BYTES = 4 * (sum(SIZES) + S) + 16  # float32 columns, and Long id and height


def selection(count: int) -> Selection:
    """Return pages with the ids 100, 101, ..., of which no table is needed."""
    return Selection(np.empty(0), range(100, 100 + count), np.array([0, count]), 64, 64)


def made_up_outputs(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ids, heights, table and structure; low pages have no SSIM."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(count, sum(SIZES), generator=generator)
    # The mean of a dimension is far larger than its deviation.
    table[:, len(NAMES)] = 1000 + 0.3 * table[:, len(NAMES)]
    heights = torch.randint(5, 60, (count,), generator=generator)
    table[heights < 11, NAMES.index("ssim")] = torch.nan
    table[:, 3:5] = table[:, 3:5].abs()
    structure = torch.randn(count, S, generator=generator)
    return torch.arange(100, 100 + count), heights, table, structure


def collect(
    count: int, limit: int, ranks: int = 1
) -> tuple[EncodedSet, list[ThreadRanks], list[int]]:
    """Collect made-up outputs; return the set, the ranks, and the structure rows of each rank."""
    pages = selection(count)
    compared = compared_ids(pages, pages.spaced(limit))
    outputs = made_up_outputs(count)

    def run(rank: ThreadRanks) -> tuple[EncodedSet | None, ThreadRanks, int]:
        collector, structures = SetCollector(NAMES, SIZES, S, rank, compared), 0
        parts = list(zip(*(x.split(BATCH) for x in outputs), strict=True))
        for ids, heights, table, structure in parts[rank.rank :: ranks]:
            chosen = collector.is_compared(ids)
            collector.update(ids, heights, table, chosen, structure[chosen])
            structures += len(chosen)
        return collector.result(), rank, structures

    sets, of_ranks, structures = zip(*run_ranks(ranks, run), strict=True)
    assert all(each is None for each in sets[1:])
    return sets[0], list(of_ranks), list(structures)


def statistics(encoded: EncodedSet) -> dict[str, Tensor]:
    return {name: torch.as_tensor(value) for name, value in vars(encoded.latents).items()}


def test_gathered_bytes_and_compared_pages_do_not_grow_with_the_pages(monkeypatch):
    sizes = []
    monkeypatch.setattr(
        validation, "mutual_information", lambda mu, logvar, z: sizes.append(len(z)) or 0.0
    )
    for count in (200, 5000):
        encoded, ranks, structures = collect(count, limit=50, ranks=3)
        assert [rank.received for rank in ranks] == [50 * ROW_BYTES, 0, 0]
        assert sum(structures) == 50
        assert encoded.latents.count == count
        summarise(encoded)
    assert sizes == [50, 50]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_accumulated_statistics_equal_those_of_all_rows(ranks):
    count = 333
    everything, _, _ = collect(count, limit=count)
    subset, _, _ = collect(count, limit=40, ranks=ranks)
    assert subset.means == pytest.approx(everything.means, rel=1e-12)
    expected = statistics(everything)
    for name, value in statistics(subset).items():
        torch.testing.assert_close(
            value, expected[name], rtol=1e-9, atol=1e-12, check_dtype=False, msg=name
        )
    rows = torch.searchsorted(everything.pages.ids, subset.pages.ids)
    assert torch.equal(everything.pages.ids[rows], subset.pages.ids)
    for name in ("heights", "mu", "logvar", "kl", "structure"):
        whole, part = (getattr(each.pages, name) for each in (everything, subset))
        assert torch.equal(whole[rows], part), name


def test_metrics_of_a_subset_are_those_of_any_number_of_ranks():
    one, two, three = (summarise(collect(500, 60, ranks)[0]) for ranks in (1, 2, 3))
    assert two == pytest.approx(one, rel=1e-12)
    assert three == pytest.approx(one, rel=1e-12)
    # The compared pages are the same, so this is identical to the bit.
    assert one["mutual_information"] == two["mutual_information"] == three["mutual_information"]


def test_few_pages_are_identical_to_the_bit_for_any_number_of_ranks():
    one, two = (summarise(collect(90, MAX_COMPARED_PAGES, ranks)[0]) for ranks in (1, 2))
    assert one == two
    encoded = collect(90, MAX_COMPARED_PAGES)[0]
    mu = made_up_outputs(90)[2][:, len(NAMES) : len(NAMES) + D].double()
    assert one["latent_std_mean"] == mu.std(dim=0).mean().item()
    assert torch.equal(encoded.latents.correlation, latents.correlation(mu))


def test_compared_pages_are_evenly_spaced_and_bounded():
    for limit in (MAX_COMPARED_PAGES, MAX_EVALUATED_PAGES):
        pages = selection(100_000)
        ids = compared_ids(pages, pages.spaced(limit))
        assert len(ids) == limit
        assert (int(ids[0]), int(ids[-1])) == (100, 100_099)
        assert int(ids.diff().max()) - int(ids.diff().min()) <= 1
    few = selection(MAX_COMPARED_PAGES)
    assert compared_ids(few, few.spaced(MAX_COMPARED_PAGES)) is None


def test_means_of_columns_without_a_page_are_undefined():
    collector = SetCollector(NAMES, SIZES, S, FakeEngine(), torch.tensor([100]))
    ids, _, table, structure = made_up_outputs(4)
    low = torch.full((4,), 5)
    collector.update(ids, low, table, collector.is_compared(ids), structure[:1])
    assert "ssim" not in collector.result().means
