"""Keys, split and shards hang on the pages and the seed, not on the order they arrived in."""

import json
from collections import Counter
from pathlib import Path

import pytest

from shards.build import build
from shards.building.options import BuildOptions
from shards.building.plan import seeded_hash, shuffled
from shards.building.split import val_groups
from shards.errors import UserError
from shards.open import open_index
from shards.storage import sha256_of

TEMPLATES = 6


def record(number: int) -> dict:
    """A page of one of some templates; ids come twice, with other content."""
    boxes = [{"b": [10, 40 + 30 * number, 100, 20]}, {"b": [200, 20 * number, 50, 60]}]
    names = {"id": f"page{number // 2}", "template": f"t{number % TEMPLATES}"}
    return {
        **names,
        "label": "form",
        "w": 400,
        "h": 1200,
        "r": {"b": [0, 0, 400, 1200], "c": boxes},
    }


def write(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    records = [record(number) for number in range(36)]
    write(folder / "all.jsonl", records)
    write(folder / "back.jsonl", records[::-1])
    write(folder / "odd.jsonl", records[1::2])
    write(folder / "even.jsonl", records[::2])
    return folder


def built(sources: list[Path], out: Path, **options) -> dict[str, str]:
    build(sources, out, BuildOptions(workers=1, shard_mb=0.02, **options))
    return {path.name: sha256_of(path) for path in out.iterdir() if path.name != "rejects.jsonl"}


def test_the_order_and_the_cut_of_the_files_change_no_byte(pages, tmp_path):
    expected = built([pages / "all.jsonl"], tmp_path / "all")
    assert len(expected) > 4
    assert built([pages / "back.jsonl"], tmp_path / "back") == expected
    both = [pages / "odd.jsonl", pages / "even.jsonl"]
    assert built(both, tmp_path / "both") == expected
    assert built(both[::-1], tmp_path / "swapped") == expected


def test_splitting_by_another_key(pages, tmp_path):
    built([pages / "all.jsonl"], tmp_path / "by", split_by="sample", val_fraction=0.5)
    index = open_index(tmp_path / "by")
    templates = index.table["template"]
    sides = [set(templates[list(index.ids(split))].tolist()) for split in ("train", "val")]
    assert len(index.ids("val")) == 18
    assert sides[0] & sides[1]
    with pytest.raises(UserError, match="--split-by license"):
        build([pages / "all.jsonl"], tmp_path / "no", BuildOptions(workers=1, split_by="license"))


def test_shards_are_about_equal(pages, tmp_path):
    built([pages / "all.jsonl"], tmp_path / "cut", val_fraction=0)
    samples = [shard.samples for shard in open_index(tmp_path / "cut").shards]
    assert sum(samples) == 36
    assert max(samples) - min(samples) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_the_split_comes_near_the_wanted_share(seed):
    groups = [f"g{number}" for number in range(40) for _ in range(1 + number)]
    chosen = val_groups(groups, 0.1, seed)
    share = sum(group in chosen for group in groups) / len(groups)
    assert share == pytest.approx(0.1, abs=0.01)
    assert val_groups(groups[::-1], 0.1, seed) == chosen
    assert val_groups(groups, 0.1, seed + 100) != chosen


def test_a_shuffle_hangs_on_the_names_alone():
    names = [f"page{number}" for number in range(100)]
    order = [names[at] for at in shuffled(names, seed=3)]
    assert order == [names[::-1][at] for at in shuffled(names[::-1], seed=3)]
    assert order != [names[at] for at in shuffled(names, seed=4)]
    assert Counter(order) == Counter(names)


def test_the_hash_is_the_same_for_ever():
    """Shards that were built before must be built alike by a later version."""
    assert seeded_hash(0, "shuffle", "page").hex() == "50c9904d8a24bda582a142080d691233"
