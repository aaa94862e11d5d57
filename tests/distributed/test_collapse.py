"""Posterior collapse: it is logged, and ends the run or is reversed, by `collapse.action`."""

import pytest

from shards.build import build
from shards.building.options import BuildOptions
from tests.distributed.conftest import Trainer
from tests.support.paths import SAMPLE

# The beta is far too high, and the model has random initial weights.
COLLAPSING = ("beta.schedule=constant", "beta.max=300", "train.validate_every_images=64")


def verdicts(trainer, name: str) -> list[str]:
    return [line["verdict"] for line in trainer.lines(name, "val")]


@pytest.mark.slow
def test_stop_action_ends_the_run_on_all_ranks(trainer):
    command = trainer.command("collapsed", *COLLAPSING, "collapse.action=stop", engine="ddp")
    done = trainer.run(command)
    assert done.returncode == 1
    lines = {line for line in done.stderr.splitlines() if line.startswith("error: ")}
    (line,) = lines  # the launcher's own messages have no such prefix
    assert "stopped: the posterior is collapsing: 5 of the 5 dimensions that" in line
    assert "(16 in all) inactive; try" in line
    # The command above ended, so no reader process is left that would keep its pipes open.
    assert verdicts(trainer, "collapsed") == ["waking", "collapsing"]
    assert "saved at 128 images" in line
    saved = [path.name for path in (trainer.folder / "collapsed" / "checkpoints").glob("[0-9]*")]
    assert f"{128:012d}" in saved


@pytest.fixture
def whole(tmp_path) -> Trainer:
    """Return a trainer on all pages of the sample, enough to validate sixteen dimensions."""
    build([SAMPLE], tmp_path / "shards", BuildOptions(workers=1))
    return Trainer(tmp_path / "shards", tmp_path / "runs")


@pytest.mark.slow
def test_hold_beta_reactivates_the_latent(whole):
    """Beta is three thousand times its default; NOTES.md has the table of both runs."""
    settings = ("beta.schedule=constant", "beta.max=300", "optimizer.lr=2e-3")
    settings += ("lr.schedule=constant", "train.global_batch_size=16", "train.max_images=3072")
    settings += ("train.validate_every_images=256", "train.checkpoint_every_images=1024")
    whole.train("limited", *settings, "collapse.action=hold_beta")
    whole.train("not-limited", *settings)
    assert verdicts(whole, "not-limited")[:2] == ["waking", "collapsing"]
    assert all(line["active_units"] < 16 / 2 for line in whole.lines("not-limited", "val"))
    lines = whole.lines("limited", "val")
    assert lines[1]["verdict"] == "collapsing"
    assert lines[-1]["verdict"] == "healthy"
    assert lines[-1]["active_units"] > 16 / 2
    assert lines[-1]["beta"] < lines[0]["beta"] == 300
    # A run that is interrupted while beta is limited has the same beta afterwards.
    whole.train("again", *settings, "collapse.action=hold_beta", "train.max_images=1024")
    whole.train("again", *settings, "collapse.action=hold_beta", "train.max_images=1536")
    known = [line["beta"] for line in lines]
    assert [line["beta"] for line in whole.lines("again", "val")] == known[:6]
