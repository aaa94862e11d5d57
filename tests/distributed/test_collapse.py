"""A posterior that collapses is told by the trainer, ends the run or is brought back, as asked."""

import pytest

from shards.build import build
from shards.building.options import BuildOptions
from tests.distributed.conftest import REPO, Trainer

# Far too high a beta, on a model that has nothing to start from.
CRUSHED = ("beta.schedule=constant", "beta.max=300", "train.validate_every_images=64")


def verdicts(trainer, name: str) -> list[str]:
    return [line["verdict"] for line in trainer.lines(name, "val")]


def test_a_collapse_ends_the_run_on_all_ranks_where_asked(trainer):
    command = trainer.command("collapsed", *CRUSHED, "collapse.action=stop", engine="ddp")
    done = trainer.run(command)
    assert done.returncode == 1
    lines = {line for line in done.stderr.splitlines() if line.startswith("error: ")}
    (line,) = lines  # whichever rank tells it; the rest of what is told is the launcher's
    assert "stopped: the posterior is collapsing: 5 of 5 dimensions inactive; try" in line
    # No reader is left that would hold the pipes: the command above came to its end.
    assert verdicts(trainer, "collapsed") == ["waking", "collapsing"]
    assert "saved at 128 images" in line
    saved = [path.name for path in (trainer.folder / "collapsed" / "checkpoints").glob("[0-9]*")]
    assert f"{128:012d}" in saved


@pytest.fixture
def whole(tmp_path) -> Trainer:
    """A trainer on all of the sample's pages: enough to validate on for sixteen dimensions."""
    build([REPO / "shards" / "sample"], tmp_path / "shards", BuildOptions(workers=1))
    return Trainer(tmp_path / "shards", tmp_path / "runs")


@pytest.mark.slow
def test_held_beta_brings_the_latent_back(whole):
    """Three thousand times the default beta; the table of both runs stands in NOTES.md."""
    settings = ("beta.schedule=constant", "beta.max=300", "optimizer.lr=2e-3")
    settings += ("lr.schedule=constant", "train.global_batch_size=16", "train.max_images=3072")
    settings += ("train.validate_every_images=256", "train.checkpoint_every_images=1024")
    whole.train("held", *settings, "collapse.action=hold_beta")
    whole.train("crushed", *settings)
    assert verdicts(whole, "crushed")[:2] == ["waking", "collapsing"]
    assert all(line["active_units"] < 16 / 2 for line in whole.lines("crushed", "val"))
    lines = whole.lines("held", "val")
    assert lines[1]["verdict"] == "collapsing"
    assert lines[-1]["verdict"] == "healthy"
    assert lines[-1]["active_units"] > 16 / 2
    assert lines[-1]["beta"] < lines[0]["beta"] == 300
    # Interrupted while beta is held, it is the same run.
    whole.train("again", *settings, "collapse.action=hold_beta", "train.max_images=1024")
    whole.train("again", *settings, "collapse.action=hold_beta", "train.max_images=1536")
    known = [line["beta"] for line in lines]
    assert [line["beta"] for line in whole.lines("again", "val")] == known[:6]
