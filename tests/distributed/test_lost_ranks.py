"""Dead ranks, hung ranks, ranks without memory: named in time, and resumed exactly."""

import os
import re
import signal
import time

import pytest

from launch.processes import family, kill_family, ranks
from tests.distributed.test_resume import checkpoints
from tests.support.tensors import same_bits

TIMEOUT = 15
SLACK = 20  # seconds that torch's launcher and a busy machine need on top
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
    """Wait for a failing run to end without leaving processes; return its one error line."""
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
    assert "Error: [" not in err, err  # from a collective, beside the line
    return lines[0]


@pytest.fixture(scope="module")
def undisturbed(trainer):
    def weights(engine):
        name = f"undisturbed-{engine}"
        if not (trainer.folder / name).exists():
            trainer.train(name, *SETTINGS, engine=engine)
        return trainer.weights(name)

    return weights


def resumes_exactly(trainer, name, engine, undisturbed):
    """Return whether the same command resumes and ends with identical weights."""
    assert "resuming at" in trainer.train(name, *SETTINGS, engine=engine)
    return same_bits(trainer.weights(name), undisturbed(engine))


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
def test_a_killed_run_resumes_exactly(trainer, undisturbed, engine, rank):
    name = f"killed-{rank}-{engine}"
    process = started(trainer, name, engine)
    os.kill(ranks(process.mark, process.pid)[rank], signal.SIGKILL)
    assert f"rank {rank} is dead" in ended(process, within=TIMEOUT + SLACK)
    assert resumes_exactly(trainer, name, engine, undisturbed)


@slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_stopped_rank_is_named_in_time(trainer, undisturbed, engine):
    name = f"paused-{engine}"
    process = started(trainer, name, engine)
    os.kill(ranks(process.mark, process.pid)[1], signal.SIGSTOP)
    error = ended(process, within=TIMEOUT + SLACK)
    expected = f"error: rank 1 has been silent for {TIMEOUT} s (train.timeout_seconds); last seen "
    assert error.startswith(expected)
    assert resumes_exactly(trainer, name, engine, undisturbed)


@slow
def test_a_pause_within_the_timeout_changes_nothing(trainer, undisturbed):
    process = started(trainer, "short-pause", "ddp")
    victims = [ranks(process.mark, process.pid)[rank] for rank in (0, 1)]
    for paused in (victims[:1], victims[1:], victims):
        for victim in paused:
            os.kill(victim, signal.SIGSTOP)
        time.sleep(TIMEOUT / 3)
        for victim in paused:
            os.kill(victim, signal.SIGCONT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert same_bits(trainer.weights("short-pause"), undisturbed("ddp"))


@slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_a_rank_that_hangs_in_reading_is_named_with_its_place(trainer, undisturbed, engine):
    name = f"stuck-{engine}"
    error = ended(started(trainer, name, engine, "stuck_reading"), within=TIMEOUT + SLACK)
    assert error == (
        f"error: rank 1 has made no progress for {TIMEOUT} s (train.timeout_seconds); last seen "
        "reading pages at 40 images; run the same command again to resume from the last checkpoint"
    )
    assert resumes_exactly(trainer, name, engine, undisturbed)


@slow
def test_lack_of_memory_is_reported(trainer, undisturbed):
    error = ended(started(trainer, "no-memory", "ddp", "no_memory"), within=TIMEOUT + SLACK)
    assert error.startswith("error: rank 1: out of memory (")
    assert error.endswith("lower train.micro_batch_size or set train.checkpoint_activations=true")
    assert resumes_exactly(trainer, "no-memory", "ddp", undisturbed)


@slow
def test_a_killed_reader_process_ends_the_run_with_a_reason(trainer, undisturbed):
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
    assert resumes_exactly(trainer, "killed-reader", "ddp", undisturbed)


@slow
def test_a_missing_rank_ends_the_start_after_the_timeout(trainer):
    world = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29617"}
    command = trainer.command("alone", "train.timeout_seconds=2", engine=None)
    done = trainer.run(command, **world, **address)
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert error == (
        "error: rank 0: only some of 2 ranks joined the process group within 2 s "
        "(train.timeout_seconds)"
    )
