"""Reductions of gradients in steps of one, two and four micro batches: number, type and result."""

import functools
import json
from collections.abc import Callable

import pytest

from tests.support.commands import run_launched
from tests.support.engine_files import HYBRID, engine_ranks, small_units

PROGRAM = "tests/distributed/programs/reductions.py"
PARAMETERS = 20  # smallest unit of FSDP2: the model has two
# `engine.reduce_dtype` and `engine.reduce_each_micro_batch`, and an engine's reductions with 1, 2
# and 4 micro batches: of the model's one bucket under ddp and ZeRO, of two units under FSDP2. With
# several copies of the model, a reduce-scatter in each copy, and an all-reduce between the copies.
ONCE = {"fp32,auto": (1, 1, 1), "bf16,auto": (1, 1, 1)}
BY_DESIGN = {"fp32,auto": (1, 2, 4), "bf16,auto": (1, 2, 4)}
EXPECTED = {
    "single": {"fp32,auto": (0, 0, 0)},
    "ddp": ONCE,
    "zero1": ONCE,
    "zero1_offload": ONCE,
    "zero2": BY_DESIGN,
    "zero2_offload": BY_DESIGN,
    "zero3": BY_DESIGN,
    "zero3_offload": BY_DESIGN,
    # In bf16, FSDP2 would add up micro batches in bf16, so it reduces each of them.
    "fsdp2": {"fp32,auto": (2, 2, 2), "fp32,true": (2, 4, 8), "bf16,auto": (2, 4, 8)},
    # Whole gradients would be on the device.
    "fsdp2_offload": {"fp32,auto": (2, 4, 8), "fp32,false": (2, 2, 2), "bf16,auto": (2, 4, 8)},
    HYBRID: {
        "fp32,auto": (2 + 2, 2 + 2, 2 + 2),
        "fp32,true": (2 + 2, 4 + 2, 8 + 2),
        "bf16,auto": (2 + 2, 4 + 4, 8 + 8),
    },
}
ROUNDED = [engine for engine, cases in EXPECTED.items() if "bf16,auto" in cases]


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> Callable[[str], dict[str, list[dict]]]:
    """Return a function that gives what `reductions.py` finds under an engine, by case."""

    @functools.cache
    def found(engine: str) -> dict[str, list[dict]]:
        file = small_units(engine, tmp_path_factory.mktemp(engine), PARAMETERS)
        done = run_launched(file, PROGRAM, *EXPECTED[engine], processes=engine_ranks(engine))
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("found ")]
        return json.loads(line.removeprefix("found "))

    return found


def counts(found: list[dict], collective: str) -> tuple[int, ...]:
    """Return how often each of the steps runs a collective."""
    return tuple(step["collectives"].get(collective, 0) for step in found)


@pytest.mark.slow
@pytest.mark.parametrize("engine", EXPECTED)
def test_gradients_are_reduced_once_a_step_or_in_every_micro_batch(steps, engine):
    for case, expected in EXPECTED[engine].items():
        found, dtype = steps(engine)[case], case.split(",")[0]
        other = {"fp32": "bf16", "bf16": "fp32"}[dtype]
        assert counts(found, f"all_reduce {dtype}") == expected, case
        assert counts(found, f"all_reduce {other}") == (0, 0, 0), case


@pytest.mark.slow
@pytest.mark.parametrize("engine", EXPECTED)
def test_the_gradient_depends_on_neither_micro_batches_nor_reductions(steps, engine):
    cases = [found for case, found in steps(engine).items() if case.startswith("fp32")]
    for step in (step for found in cases for step in found):
        assert step["norms"] == pytest.approx(cases[0][0]["norms"], rel=1e-5)
        assert step["gradient"] == pytest.approx(cases[0][0]["gradient"], rel=1e-5, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ROUNDED)
def test_bf16_reductions_differ_by_rounding(steps, engine):
    """The program asserts that weights and moments are fp32."""
    exact, found = steps(engine)["fp32,auto"][0], steps(engine)["bf16,auto"]
    # bf16 has 8 significant bits: each rank's part is rounded by up to 2^-8 of it, as is each sum.
    errors = [abs(a - b) for a, b in zip(found[0]["gradient"], exact["gradient"], strict=True)]
    allowed = [engine_ranks(engine) * 2**-8 * size for size in exact["magnitudes"]]
    assert any(errors)
    assert all(error <= limit for error, limit in zip(errors, allowed, strict=True))
    for step in found[1:]:
        assert step["norms"] == pytest.approx(exact["norms"], rel=2**-7)
