"""The plan of a build depends on pages and seed, and not on the order of the inputs."""

import json
from collections import Counter
from pathlib import Path

import pytest

from shards.atomic_files import sha256_of
from shards.build import build
from shards.building.options import BuildOptions
from shards.building.plan import seeded_hash, shuffled
from shards.open import open_index

TEMPLATES = 6


def record(number: int) -> dict:
    """Return a page of one of six templates; each id occurs twice, with different content."""
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


def test_order_and_number_of_files_do_not_change_any_byte(pages, tmp_path):
    expected = built([pages / "all.jsonl"], tmp_path / "all")
    assert len(expected) > 4
    assert built([pages / "back.jsonl"], tmp_path / "back") == expected
    both = [pages / "odd.jsonl", pages / "even.jsonl"]
    assert built(both, tmp_path / "both") == expected
    assert built(both[::-1], tmp_path / "swapped") == expected


def test_shards_have_about_equal_size(pages, tmp_path):
    built([pages / "all.jsonl"], tmp_path / "cut", val_fraction=0)
    samples = [shard.samples for shard in open_index(tmp_path / "cut").shards]
    assert sum(samples) == 36
    assert max(samples) - min(samples) <= 1


def test_the_shuffle_depends_on_names_and_seed_only():
    names = [f"page{number}" for number in range(100)]
    order = [names[at] for at in shuffled(names, seed=3)]
    assert order == [names[::-1][at] for at in shuffled(names[::-1], seed=3)]
    assert order != [names[at] for at in shuffled(names, seed=4)]
    assert Counter(order) == Counter(names)


def test_the_hash_never_changes():
    """A later version must build the same shards."""
    assert seeded_hash(0, "shuffle", "page").hex() == "50c9904d8a24bda582a142080d691233"
