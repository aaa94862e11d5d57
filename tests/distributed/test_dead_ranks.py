"""A dead or hung rank, or lack of memory: the run reports the rank in time and resumes exactly."""

import os
import re
import signal
import time

import pytest

from launch.processes import family, kill_family, ranks
from tests.distributed.test_resume import checkpoints
from tests.support.tensors import same_bits

TIMEOUT = 15
SLACK = 20  # seconds for torch's launcher on a busy machine, in addition to the timeout
SETTINGS = (
    "train.max_images=480",
    "train.checkpoint_every_images=24",
    f"train.timeout_seconds={TIMEOUT}",
    "augment.policy=strong",
)
ENGINES = ["ddp", "zero2", "fsdp2"]
slow = pytest.mark.slow


def started(trainer, name, engine, mutation=None):
    """Start a run and wait for its first checkpoint."""
    script = "vaetrain/train.py" if mutation is None else "tests/distributed/programs/mutant.py"
    command = trainer.command(name, *SETTINGS, engine=engine, script=script)
    if mutation is not None:
        command.insert(command.index(script) + 1, mutation)
    process = trainer.start(command)
    deadline = time.monotonic() + 170
    while not checkpoints(trainer, name):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def ended(process, within):
    """Wait until a failing run and all its processes have ended; return its only error line."""
    begun = time.monotonic()
    try:
        _, err = process.communicate(timeout=within)
        assert process.returncode == 1, err
        while family(process.mark):
            assert time.monotonic() < begun + within
            time.sleep(0.1)
    finally:
        kill_family(process.mark)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert "Error: [" not in err, err  # of a collective, which fails as well
    return lines[0]


@pytest.fixture(scope="module")
def uninterrupted(trainer):
    def weights(engine):
        name = f"uninterrupted-{engine}"
        if not (trainer.folder / name).exists():
            trainer.train(name, *SETTINGS, engine=engine)
        return trainer.weights(name)

    return weights


def resumes_exactly(trainer, name, engine, uninterrupted):
    """Return whether the same command resumes and ends with identical weights."""
    assert "resuming at" in trainer.train(name, *SETTINGS, engine=engine)
    return same_bits(trainer.weights(name), uninterrupted(engine))


def test_a_killed_rank_is_named(trainer):
    process = started(trainer, "killed-rank", "ddp")
    os.kill(ranks(process.mark, process.pid)[1], signal.SIGKILL)
    error = ended(process, within=TIMEOUT + SLACK)
    assert re.fullmatch(
        r"error: rank 1 is dead; last seen \w+ .*; run the same command again .*", error
    )


@slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_run_resumes_exactly(trainer, uninterrupted, engine, rank):
    name = f"killed-{rank}-{engine}"
    process = started(trainer, name, engine)
    os.kill(ranks(process.mark, process.pid)[rank], signal.SIGKILL)
    assert f"rank {rank} is dead" in ended(process, within=TIMEOUT + SLACK)
    assert resumes_exactly(trainer, name, engine, uninterrupted)


@slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_stopped_rank_is_named_in_time(trainer, uninterrupted, engine):
    name = f"paused-{engine}"
    process = started(trainer, name, engine)
    os.kill(ranks(process.mark, process.pid)[1], signal.SIGSTOP)
    error = ended(process, within=TIMEOUT + SLACK)
    limit = rf"\d+ s \(train\.timeout_seconds={TIMEOUT}\)"
    assert re.match(f"error: rank 1 has been silent for {limit}; last seen ", error)
    assert resumes_exactly(trainer, name, engine, uninterrupted)


@slow
def test_a_pause_within_the_timeout_changes_nothing(trainer, uninterrupted):
    process = started(trainer, "short-pause", "ddp")
    both = [ranks(process.mark, process.pid)[rank] for rank in (0, 1)]
    for paused in (both[:1], both[1:], both):
        for rank in paused:
            os.kill(rank, signal.SIGSTOP)
        time.sleep(TIMEOUT / 3)
        for rank in paused:
            os.kill(rank, signal.SIGCONT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert same_bits(trainer.weights("short-pause"), uninterrupted("ddp"))


@slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_a_rank_that_hangs_in_reading_is_named_with_what_it_did_last(
    trainer, uninterrupted, engine
):
    name = f"hung-{engine}"
    error = ended(started(trainer, name, engine, "hung_in_reading"), within=TIMEOUT + SLACK)
    assert re.fullmatch(
        rf"error: rank 1 has made no progress for \d+ s \(train\.timeout_seconds={TIMEOUT}\); last "
        "seen reading pages at 40 images; run the same command again to resume from the last "
        "checkpoint",
        error,
    )
    assert resumes_exactly(trainer, name, engine, uninterrupted)


@slow
def test_a_rank_that_waits_for_a_long_fit_is_not_taken_for_a_hung_one(trainer):
    """Runs ended after the training where the main process fitted longer than the timeout."""
    fit = ("prior.kind=flow", "prior.detail=false", "prior.steps=1200", "prior.epochs=100000")
    settings = ("train.max_images=48", f"train.timeout_seconds={TIMEOUT}", "prior.width=512", *fit)
    begun = time.monotonic()
    trainer.train("long-fit", *settings, engine="ddp")
    trained = time.monotonic() - begun
    begun = time.monotonic()
    trainer.train("no-fit", *settings[:2], "prior.kind=none", engine="ddp")
    assert trained - (time.monotonic() - begun) > 1.5 * TIMEOUT
    assert (trainer.folder / "long-fit" / "final" / "prior.safetensors").exists()


@slow
def test_lack_of_memory_is_reported(trainer, uninterrupted):
    error = ended(started(trainer, "no-memory", "ddp", "no_memory"), within=TIMEOUT + SLACK)
    assert error.startswith("error: rank 1: out of memory (")
    assert error.endswith("lower train.micro_batch_size or set train.checkpoint_activations=true")
    assert resumes_exactly(trainer, "no-memory", "ddp", uninterrupted)


@slow
def test_a_killed_reader_process_ends_the_run_with_a_reason(trainer, uninterrupted):
    process = started(trainer, "killed-reader", "ddp")
    parents, rank = family(process.mark), ranks(process.mark, process.pid)[1]
    readers = [child for child, parent in parents.items() if parents.get(parent) == rank]
    assert readers
    for reader in readers:
        os.kill(reader, signal.SIGKILL)
    error = ended(process, within=TIMEOUT + SLACK)
    assert error.startswith(
        "error: rank 1: a reader process was killed, probably for lack of memory"
    )
    assert resumes_exactly(trainer, "killed-reader", "ddp", uninterrupted)


@slow
def test_a_missing_rank_ends_the_start_after_the_timeout(trainer):
    world = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29617"}
    command = trainer.command("missing-rank", "train.timeout_seconds=2", engine=None)
    done = trainer.run(command, **world, **address)
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert error == (
        "error: rank 0: only 1 of 2 ranks joined the process group at 127.0.0.1:29617 within 2 s "
        "(train.timeout_seconds)"
    )
