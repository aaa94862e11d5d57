"""Reductions of gradients in steps of one, two and four micro batches: number, type and result."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.commands import launcher, run_command
from tests.support.engine_files import small_units

PROGRAM = "tests/distributed/programs/reductions.py"
PARAMETERS = 20  # smallest unit of FSDP2: the model has two
# Engine, `engine.reduce_each_micro_batch`, and reductions with 1, 2 and 4 micro batches. Those of
# ddp and ZeRO are of the model's one bucket, those of FSDP2 of its two units.
EXPECTED = [
    ("single", "auto", (0, 0, 0)),
    ("ddp", "auto", (1, 1, 1)),
    ("zero1", "auto", (1, 1, 1)),
    ("zero1_offload", "auto", (1, 1, 1)),
    ("zero2", "auto", (1, 2, 4)),
    ("zero2_offload", "auto", (1, 2, 4)),
    ("zero3", "auto", (1, 2, 4)),
    ("zero3_offload", "auto", (1, 2, 4)),
    ("fsdp2", "auto", (2, 2, 2)),
    ("fsdp2", "false", (2, 2, 2)),
    ("fsdp2", "true", (2, 4, 8)),
]
# FSDP2 would add up micro batches in bf16, so it reduces each of them.
BF16 = [
    ("ddp", (1, 1, 1)),
    ("zero1", (1, 1, 1)),
    ("zero1_offload", (1, 1, 1)),
    ("zero2", (1, 2, 4)),
    ("zero3", (1, 2, 4)),
    ("fsdp2", (2, 4, 8)),
]


def launch(engine: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `reductions.py`."""
    ranks = 1 if engine == "single" else 2
    file = small_units(engine, folder, PARAMETERS)
    return run_command(*launcher(file, ranks), PROGRAM, *arguments)


def steps(engine: str, folder: Path, *arguments: str) -> list[dict]:
    """Return what `reductions.py` finds in steps of 1, 2 and 4 micro batches."""
    done = launch(engine, folder, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    found = json.loads(line.removeprefix("found "))
    return [found[count] for count in ("1", "2", "4")]


def counts(found: list[dict], collective: str) -> tuple[int, ...]:
    """Return how often each of the steps runs a collective."""
    return tuple(step["collectives"].get(collective, 0) for step in found)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "each", "expected"), EXPECTED)
def test_gradients_are_reduced_once_a_step_or_in_every_micro_batch(
    engine, each, expected, tmp_path
):
    found = steps(engine, tmp_path, "fp32", each)
    assert counts(found, "all_reduce fp32") == expected
    assert not any(name.endswith("bf16") for step in found for name in step["collectives"])
    for step in found[1:]:
        assert step["norms"] == pytest.approx(found[0]["norms"], rel=1e-5)


@pytest.fixture(scope="module")
def exact(tmp_path_factory) -> dict:
    """Return the step of one micro batch whose gradients ddp reduces in fp32."""
    return steps("ddp", tmp_path_factory.mktemp("ddp"), "fp32", "auto")[0]


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "expected"), BF16)
def test_bf16_reductions_round_the_gradient_and_send_nothing_in_fp32(
    exact, engine, expected, tmp_path
):
    """The program asserts that weights and moments are fp32."""
    found = steps(engine, tmp_path, "bf16", "auto")
    assert counts(found, "all_reduce bf16") == expected
    assert counts(found, "all_reduce fp32") == (0, 0, 0)
    # bf16 has 8 bits: each rank's part is rounded by 2^-9 of it, and so is their sum.
    errors = [abs(a - b) for a, b in zip(found[0]["gradient"], exact["gradient"], strict=True)]
    allowed = [2**-8 * size for size in exact["magnitudes"]]
    assert any(errors)
    assert all(error <= limit for error, limit in zip(errors, allowed, strict=True))
    for step in found[1:]:
        assert step["norms"] == pytest.approx(exact["norms"], rel=2**-8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "each", "message"),
    [
        ("single", "auto", "engine.reduce_dtype: single has one rank and reduces no gradients"),
        ("fsdp2", "false", "would add up the 2 micro batches of a step in bf16; write auto"),
    ],
)
def test_bf16_is_refused_where_it_cannot_be_had(engine, each, message, tmp_path):
    done = launch(engine, tmp_path, "bf16", each)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
