"""A rank that dies, hangs or has no memory left: the others name it, end in time, lose nothing."""

import os
import re
import signal
import time

import pytest

from launch.soak import family, kill_family, ranks
from tests.distributed.test_resume import checkpoints, same_bits

TIMEOUT = 15
SLACK = 20  # seconds, on a busy machine: torch's launcher takes its time, too
SETTINGS = (
    "train.max_images=480",
    "train.checkpoint_every_images=24",
    f"train.timeout_seconds={TIMEOUT}",
    "augment.policy=strong",
)
ENGINES = ["ddp", "zero2", "fsdp2"]
slow = pytest.mark.slow


def started(trainer, name, engine, mutation=None):
    """A run that has saved."""
    script = "vaetrain/train.py" if mutation is None else "tests/distributed/mutant.py"
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
    """What a run says that must end by itself: its one line; no process of it is left."""
    begun = time.monotonic()
    try:
        _, err = process.communicate(timeout=within)
        assert process.returncode == 1, err
        while family(process.mark):
            assert time.monotonic() < begun + within
            time.sleep(0.1)
    finally:
        kill_family(process.mark)
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(told) == 1, err
    assert "Error: [" not in err, err  # nobody's collective tells what the line tells
    return told[0]


@pytest.fixture(scope="module")
def undisturbed(trainer):
    def weights(engine):
        name = f"steady-{engine}"
        if not (trainer.folder / name).exists():
            trainer.train(name, *SETTINGS, engine=engine)
        return trainer.weights(name)

    return weights


def goes_on(trainer, name, engine, undisturbed):
    """Whether the same command ends where it would have ended."""
    assert "resuming at" in trainer.train(name, *SETTINGS, engine=engine)
    return same_bits(trainer.weights(name), undisturbed(engine))


def test_who_was_killed_is_named(trainer):
    process = started(trainer, "killed-rank", "ddp")
    os.kill(ranks(process.mark, process.pid)[1], signal.SIGKILL)
    told = ended(process, within=TIMEOUT + SLACK)
    assert re.fullmatch(
        r"error: rank 1 is gone; last seen \w+ .*; the same command goes on.*", told
    )


@slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rank", [0, 1])
def test_after_a_kill_it_goes_on(trainer, undisturbed, engine, rank):
    name = f"killed-{rank}-{engine}"
    process = started(trainer, name, engine)
    os.kill(ranks(process.mark, process.pid)[rank], signal.SIGKILL)
    assert f"rank {rank} is gone" in ended(process, within=TIMEOUT + SLACK)
    assert goes_on(trainer, name, engine, undisturbed)


@slow
@pytest.mark.parametrize("engine", ENGINES)
def test_who_is_stopped_is_named_in_time(trainer, undisturbed, engine):
    name = f"paused-{engine}"
    process = started(trainer, name, engine)
    os.kill(ranks(process.mark, process.pid)[1], signal.SIGSTOP)
    told = ended(process, within=TIMEOUT + SLACK)
    said = f"error: rank 1 has been silent for {TIMEOUT} s (train.timeout_seconds); last seen "
    assert told.startswith(said)
    assert goes_on(trainer, name, engine, undisturbed)


@slow
def test_a_pause_within_the_timeout_harms_nothing(trainer, undisturbed):
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
def test_who_hangs_in_reading_is_named_with_the_place(trainer, undisturbed, engine):
    name = f"stuck-{engine}"
    told = ended(started(trainer, name, engine, "stuck_reading"), within=TIMEOUT + SLACK)
    assert told == (
        f"error: rank 1 has been stuck for {TIMEOUT} s (train.timeout_seconds); last seen reading "
        "pages at 40 images; the same command goes on from the last checkpoint"
    )
    assert goes_on(trainer, name, engine, undisturbed)


@slow
def test_who_has_no_memory_left_says_so(trainer, undisturbed):
    told = ended(started(trainer, "no-memory", "ddp", "no_memory"), within=TIMEOUT + SLACK)
    assert told.startswith("error: rank 1: out of memory (")
    assert told.endswith("lower train.micro_batch_size or set train.checkpoint_activations=true")
    assert goes_on(trainer, "no-memory", "ddp", undisturbed)


@slow
def test_a_reader_that_was_killed_ends_the_run_with_a_reason(trainer, undisturbed):
    process = started(trainer, "killed-reader", "ddp")
    parents, rank = family(process.mark), ranks(process.mark, process.pid)[1]
    readers = [child for child, parent in parents.items() if parents.get(parent) == rank]
    assert readers
    for reader in readers:
        os.kill(reader, signal.SIGKILL)
    told = ended(process, within=TIMEOUT + SLACK)
    assert told.startswith("error: rank 1: a reader process was killed, as happens when memory")
    assert goes_on(trainer, "killed-reader", "ddp", undisturbed)


@slow
def test_a_rank_that_never_comes_up_is_not_waited_for_longer(trainer):
    world = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29617"}
    command = trainer.command("alone", "train.timeout_seconds=2", engine=None)
    done = trainer.run(command, **world, **address)
    assert done.returncode == 1
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert told == "error: rank 0: not all 2 ranks came up within 2 s"
