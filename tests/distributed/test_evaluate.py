"""Every metric of an evaluation is the same however many ranks share the pages."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.distributed.conftest import REPO, launcher
from tests.support.models import write_run
from vaetrain.config.experiment import load_experiment


def flat(metrics: dict, prefix: str = "") -> dict[str, float]:
    found = {}
    for name, value in metrics.items():
        if isinstance(value, list):
            value = dict(zip(map(str, range(len(value))), value, strict=True))
        found |= flat(value, f"{name} ") if isinstance(value, dict) else {prefix + name: value}
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> dict[int, dict[str, float]]:
    """The metrics of 75 pages in batches of 16: ranks have full, broken and empty ones."""
    folder: Path = tmp_path_factory.mktemp("evaluate")
    settings = ["data.width=64", "data.max_height=128", "model.latent_dim=8", "data.workers=0"]
    experiment = load_experiment(None, settings)
    write_run(folder, experiment, pages=75, noise=0.05)
    found = {}
    for ranks in (1, 2, 4):
        out = folder / f"{ranks}.json"
        launch = launcher("single" if ranks == 1 else "ddp", ranks)
        shards = ["--shards", folder / "shards", "--baselines", folder / "shards", "--json", out]
        done = subprocess.run(
            [*launch, "-m", "vaetrain.evaluate", str(folder / "run"), *map(str, shards)],
            cwd=REPO,
            env=os.environ | {"PYTHONPATH": str(REPO)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found[ranks] = flat(json.loads(out.read_text()))
    return found


@pytest.mark.slow  # a minute
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_change_nothing(measured, ranks):
    assert measured[ranks].keys() == measured[1].keys()
    assert len(measured[1]) > 50
    for name, value in measured[1].items():
        assert measured[ranks][name] == pytest.approx(value, rel=1e-5, abs=1e-7), name
