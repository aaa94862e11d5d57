"""Four ranks on two machines over a link with latency, limited bandwidth and faults.

The machines are network namespaces; a program passes their packets on.
"""

import contextlib
import re
import time

import pytest

from benchmarks.support.machines.link import SlowLink
from benchmarks.support.machines.namespaces import (
    ADDRESSES,
    NoNamespaces,
    launch_command,
    launch_path,
    two_machines,
)
from launch.processes import kill_family
from tests.support.engine_files import HYBRID, small_units
from tests.support.tensors import same_bits
from vaetrain.artifacts import checkpoint

pytestmark = pytest.mark.slow
DELAY, RATE = 0.02, 12.5e6  # seconds in each direction; bytes per second: 100 Mbit/s
TIMEOUT = 15
SLACK = 25  # seconds for the launchers on a busy machine, in addition to the timeout
SETTINGS = (
    "model.size=tiny",
    "data.workers=0",
    "train.max_images=120",
    "train.checkpoint_every_images=24",
    f"train.timeout_seconds={TIMEOUT}",
)
PARTS = ("weights", "average", "optimizer")
SILENT = rf"silent for \d+ s \(train\.timeout_seconds={TIMEOUT}\); last seen "
STORE = f"error: the launcher's store at {ADDRESSES[0]}:"


class Machines:
    """Two machines with two ranks each, and the link between them."""

    def __init__(self, trainer, names, link, engine_file):
        self.trainer, self.names, self.link, self.engine_file = trainer, names, link, engine_file

    @contextlib.contextmanager
    def running(self, name):
        """Start a run, and kill what is left of it."""
        arguments = self.trainer.arguments(name, *SETTINGS)
        commands = [
            launch_command(self.names, number, str(self.engine_file), 2, arguments)
            for number in (0, 1)
        ]
        launchers = [self.trainer.start(command, PATH=launch_path()) for command in commands]
        try:
            yield launchers
        finally:
            for launcher in launchers:
                kill_family(launcher.mark)
                launcher.communicate()

    def train(self, name):
        """Train to the end; return the main process's output."""
        with self.running(name) as launchers:
            return self.finish(launchers)

    def finish(self, launchers):
        out, err = launchers[0].communicate(timeout=300)
        assert launchers[0].returncode == 0, err
        assert launchers[1].wait(timeout=60) == 0
        return out

    def checkpoints(self, name):
        return checkpoint.list_checkpoints(self.trainer.folder / name / "checkpoints")

    def wait_for_checkpoint(self, name, launchers):
        deadline = time.monotonic() + 240
        while not self.checkpoints(name):
            running = [launcher.poll() is None for launcher in launchers]
            assert running == [True, True], launchers[0].communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def errors(self, launchers):
        """Wait for both machines to end in time; return the distinct `error:` lines of each.

        The two ranks of a machine that has lost the store may both print it.
        """
        begun, found = time.monotonic(), []
        for launcher in launchers:
            _, err = launcher.communicate(timeout=begun + TIMEOUT + SLACK - time.monotonic())
            assert launcher.returncode == 1, err
            assert "Error: [" not in err, err  # of a collective, which fails as well
            found.append({line for line in err.splitlines() if line.startswith("error: ")})
        return found


@pytest.fixture(params=["ddp", HYBRID])
def machines(request, trainer, tmp_path):
    """Yield two machines whose link is not slow yet; an engine's copies are of two ranks each."""
    with contextlib.ExitStack() as stack:
        try:
            names = stack.enter_context(two_machines())
            link = stack.enter_context(SlowLink(names))
        except NoNamespaces as error:
            pytest.skip(str(error))
        yield Machines(trainer, names, link, small_units(request.param, tmp_path, 20_000))


@pytest.fixture
def near(trainer, machines):
    """Train over a link without latency; return the run's name."""
    name = f"near-{machines.engine_file.stem}"
    if not (trainer.folder / name).exists():
        assert f"engine={machines.engine_file.stem} backend=gloo world_size=4" in machines.train(
            name
        )
    return name


def same_results(trainer, name, near):
    """Return whether two runs have the same losses, and all tensors the same bits."""
    losses, expected = (
        {line["images"]: (line["loss"], line["grad_norm"]) for line in trainer.lines(each)}
        for each in (name, near)
    )
    tensors = (same_bits(trainer.weights(name, p), trainer.weights(near, p)) for p in PARTS)
    return losses == expected and all(tensors)


def test_latency_and_a_short_cut_change_nothing_but_the_time(trainer, machines, near):
    """The connections survive a cut of three seconds."""
    name = f"far-{machines.engine_file.stem}"
    machines.link.set(DELAY, RATE)
    with machines.running(name) as launchers:
        machines.wait_for_checkpoint(name, launchers)
        machines.link.cut()
        time.sleep(3)
        machines.link.mend()
        machines.finish(launchers)
    assert same_results(trainer, name, near)


@pytest.mark.parametrize("fault", ["cut", "reset"])
def test_each_machine_names_what_it_misses_and_the_run_resumes_exactly(
    trainer, machines, near, fault
):
    """The link is cut or its connections are reset; it stays so until both machines have ended."""
    name = f"{fault}-{machines.engine_file.stem}"
    machines.link.set(DELAY, RATE)
    with machines.running(name) as launchers:
        machines.wait_for_checkpoint(name, launchers)
        getattr(machines.link, fault)()
        (first,), (second,) = machines.errors(launchers)
    if fault == "cut":
        assert re.match(f"error: ranks 2 and 3 have been {SILENT}", first)
    else:
        assert first.startswith("error: ranks 2 and 3 are dead; last seen ")
    assert second.startswith(STORE)
    for path in machines.checkpoints(name):
        checkpoint.load(path)  # raises DamagedCheckpoint
    machines.link.mend()
    assert "resuming at" in machines.train(name)
    assert same_results(trainer, name, near)
