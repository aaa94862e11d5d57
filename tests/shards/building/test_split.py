"""The train/val split: whole groups, by template, source or sample."""

import pytest

from shards.build import build
from shards.building.options import BuildOptions
from shards.building.split import val_groups
from shards.errors import UserError
from shards.open import open_index
from tests.shards.pages import page, write_lines


def test_split_by_another_key(tmp_path):
    records = [page(f"p{n}", x=4 * n, template=f"t{n % 3}") for n in range(36)]
    source = write_lines(tmp_path / "pages.jsonl", records)
    options = BuildOptions(workers=1, split_by="sample", val_fraction=0.5, keep_duplicates=True)
    build([source], tmp_path / "by", options)
    index = open_index(tmp_path / "by")
    templates = index.table["template"]
    sides = [set(templates[list(index.ids(split))].tolist()) for split in ("train", "val")]
    assert len(index.ids("val")) == 18
    assert sides[0] & sides[1]
    with pytest.raises(UserError, match="--split-by license: no layout has the key license"):
        build([source], tmp_path / "no", BuildOptions(workers=1, split_by="license"))


def test_without_templates_the_split_is_by_source_then_by_sample(tmp_path):
    records = [page(f"s{n}", x=n, source=f"site{n // 5}") for n in range(20)]
    build([write_lines(tmp_path / "a.jsonl", records)], tmp_path / "a", BuildOptions(workers=1))
    index = open_index(tmp_path / "a")
    assert len(index.ids("val")) == 5
    records = [page(f"s{n}", x=n) for n in range(20)]
    build([write_lines(tmp_path / "b.jsonl", records)], tmp_path / "b", BuildOptions(workers=1))
    assert len(open_index(tmp_path / "b").ids("val")) == 2


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.3, 0.5, 0.99])
def test_two_groups_give_each_split_at_least_one(fraction):
    groups = ["a"] * 50 + ["b"] * 30 + ["c"] * 20
    val = val_groups(groups, fraction, seed=0)
    assert (len(val) > 0) == (fraction > 0)
    assert val != {"a", "b", "c"}
    assert val_groups(["only"] * 9, fraction, seed=0) == set()


@pytest.mark.parametrize("seed", range(5))
def test_the_split_is_near_the_requested_share(seed):
    groups = [f"g{number}" for number in range(40) for _ in range(1 + number)]
    chosen = val_groups(groups, 0.1, seed)
    share = sum(group in chosen for group in groups) / len(groups)
    assert share == pytest.approx(0.1, abs=0.01)
    assert val_groups(groups[::-1], 0.1, seed) == chosen
    assert val_groups(groups, 0.1, seed + 100) != chosen
