"""Metrics of an evaluation, which must not depend on the number of ranks."""

import json
from pathlib import Path

import pytest

from tests.support.commands import run_launched
from tests.support.models import write_run
from vaetrain.config.experiment import load_experiment


def flatten_metrics(metrics: dict, prefix: str = "") -> dict[str, float]:
    """Return one number per name; the names of nested values are joined by spaces."""
    flat = {}
    for name, value in metrics.items():
        if isinstance(value, list):
            value = dict(zip(map(str, range(len(value))), value, strict=True))
        if isinstance(value, dict):
            flat |= flatten_metrics(value, f"{prefix}{name} ")
        else:
            flat[prefix + name] = value
    return flat


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> dict[int, dict[str, float]]:
    """Return metrics by number of ranks, of 75 pages in full, partial and empty batches of 16."""
    folder: Path = tmp_path_factory.mktemp("evaluate")
    settings = ["data.width=64", "data.max_height=128", "model.latent_dim=8", "data.workers=0"]
    experiment = load_experiment(None, settings)
    write_run(folder, experiment, pages=75, noise=0.05)
    by_ranks = {}
    for ranks in (1, 2, 4):
        out = folder / f"{ranks}.json"
        engine = "single" if ranks == 1 else "ddp"
        shards = ["--shards", folder / "shards", "--baselines", folder / "shards", "--json", out]
        evaluate = ("-m", "vaetrain.evaluate", folder / "run", *shards)
        run_launched(engine, *evaluate, processes=ranks)
        by_ranks[ranks] = flatten_metrics(json.loads(out.read_text()))
    return by_ranks


@pytest.mark.slow  # takes a minute
@pytest.mark.parametrize("ranks", [2, 4])
def test_metrics_are_the_same_on_any_number_of_ranks(measured, ranks):
    assert measured[ranks].keys() == measured[1].keys()
    assert len(measured[1]) > 50
    for name, value in measured[1].items():
        assert measured[ranks][name] == pytest.approx(value, rel=1e-5, abs=1e-7), name
