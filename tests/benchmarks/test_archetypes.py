"""The benchmark of clusters, on few pages."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import archetypes
from shards.build import build
from shards.building.options import BuildOptions
from tests.support.models import perturbed_model
from tests.support.paths import SAMPLE
from tests.vaetrain.conftest import EXPERIMENT
from tests.vaetrain.pages_one_by_one import MAX_HEIGHT, WIDTH
from vaetrain.artifacts.final_model import write_final


def command(monkeypatch, *arguments: object) -> None:
    """Run the benchmark in this process."""
    monkeypatch.setattr(sys, "argv", ["archetypes", *map(str, arguments)])
    assert archetypes.main() == 0


@pytest.mark.slow
def test_the_kinds_of_made_up_embeddings_are_found(monkeypatch, capsys):
    monkeypatch.setattr(archetypes, "DIMENSIONS", 12)
    monkeypatch.setattr(archetypes, "KINDS", 3)
    command(monkeypatch, "size", 1000)
    printed = capsys.readouterr().out
    assert "\n3 clusters, which one Gaussian does not explain" in printed
    assert "MB above" in printed


@pytest.mark.slow
def test_all_vectors_are_compared_on_validation_pages(tmp_path, monkeypatch, capsys):
    shards = tmp_path / "shards"
    build([SAMPLE], shards, BuildOptions(workers=1, val_fraction=0.3))
    model = perturbed_model(EXPERIMENT.model, WIDTH, MAX_HEIGHT, 0.05)
    write_final(tmp_path / "run" / "final", model, EXPERIMENT, {}, {})
    out = tmp_path / "q.json"
    command(
        monkeypatch, "quality", tmp_path / "run", "--shards", tmp_path / "shards", "--json", out
    )
    tables = json.loads(out.read_text())
    for table in tables.values():
        assert {"embedding", "PCA", "pixels", "embedding - PCA"} <= set(table)
        for row in table.values():
            assert row["ami"]["low"] <= row["ami"]["value"] <= row["ami"]["high"]
    assert "embedding - pixels" in capsys.readouterr().out
