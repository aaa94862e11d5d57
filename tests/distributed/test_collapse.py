"""A posterior that collapses is told by the trainer, ends the run or is brought back, as asked."""

import pytest
import torch

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


@pytest.mark.slow
def test_held_beta_brings_the_latent_back(trainer):
    settings = (*CRUSHED, "beta.max=30", "optimizer.lr=2e-3", "train.max_images=3200")
    settings += ("train.validate_every_images=320", "train.checkpoint_every_images=1600")
    trainer.train("crushed", *settings)
    assert set(verdicts(trainer, "crushed")[1:]) == {"collapsing"}
    trainer.train("held", *settings, "collapse.action=hold_beta")
    lines = trainer.lines("held", "val")
    assert lines[1]["verdict"] == "collapsing"
    assert lines[-1]["verdict"] == "healthy"
    assert lines[-1]["beta"] < lines[0]["beta"] == 30
    # Interrupted while beta is held, it is the same run.
    trainer.train("held-2", *settings, "collapse.action=hold_beta", "train.max_images=1600")
    trainer.train("held-2", *settings, "collapse.action=hold_beta")
    assert [line["beta"] for line in trainer.lines("held-2", "val")] == [
        line["beta"] for line in lines
    ]
    ours, theirs = trainer.weights("held-2"), trainer.weights("held")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
