"""Numbers of ranks that do not divide the pages or shards: no hang, and the same results."""

import pytest

from tests.support.commands import run_module

# One shard of four training pages, and one of validation pages; a step has 12 pages.
UNEVEN = ("train.global_batch_size=12", "train.max_images=60", "train.log_every_images=12")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Build shards of five pages."""
    folder = tmp_path_factory.mktemp("few") / "shards"
    options = ("--format", "synthetic", "--count", 5, "--val-fraction", 0.2, "--workers", 1)
    done = run_module("shards.build", *options, "--out", folder)
    assert done.returncode == 0, done.stderr
    assert len(list(folder.glob("train-*.tar"))) == 1
    return folder


@pytest.fixture(scope="module")
def one_process(trainer, few):
    trainer.train("few-1", *UNEVEN, f"data.shards={few}")
    return "few-1"


@pytest.mark.parametrize(
    ("engine", "processes"),
    [
        pytest.param("ddp", 3, marks=pytest.mark.slow),
        pytest.param("ddp", 2, marks=pytest.mark.slow),
        pytest.param("ddp", 4, marks=pytest.mark.slow),
        pytest.param("zero3", 1, marks=pytest.mark.slow),
        pytest.param("zero3", 4, marks=pytest.mark.slow),
        pytest.param("fsdp2", 3, marks=pytest.mark.slow),
    ],
)
def test_more_ranks_than_shards_and_fewer_pages_than_a_batch(
    trainer, few, one_process, engine, processes
):
    name = f"few-{engine}-{processes}"
    launch = {"engine": engine, "processes": processes}
    out = trainer.train(name, *UNEVEN, f"data.shards={few}", **launch)
    assert f"world_size={processes} " in out
    lines, expected = trainer.lines(name), trainer.lines(one_process)
    assert len(expected) == 5
    assert [line["ids_hash"] for line in lines] == [line["ids_hash"] for line in expected]
    for key in ("loss", "kl"):
        values = [line[key] for line in lines]
        assert values == pytest.approx([line[key] for line in expected], rel=1e-4), key
    (line,), (expected,) = trainer.lines(name, "val"), trainer.lines(one_process, "val")
    assert line["l1"] == pytest.approx(expected["l1"], rel=1e-4)
