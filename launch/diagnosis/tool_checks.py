"""Checks by the project's own tools: throughput benchmark, ONNX export, GPU tests."""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Any

import torch

from launch.diagnosis.machine import Machine, has_module
from launch.diagnosis.outcome import Failed, Held, Skipped
from launch.diagnosis.registry import register
from launch.diagnosis.step_checks import small_experiment
from launch.diagnosis.trainings import Workbench, last_error
from launch.small_run import ROOT
from vaetrain.model.vae import VAE

LEAST_OF_PLAIN_LOOP = 0.5  # trainer's rate by that of the plain loop; less is a fault of the host
TESTS = ROOT / "tests"


def _require_modules(extra: str, *names: str) -> None:
    """Raise Skipped with the install command if a module of an extra is missing."""
    if missing := [name for name in names if not has_module(name)]:
        raise Skipped(f"{', '.join(missing)} not installed; pip install -e '.[{extra}]'")


def _throughput_plan(machine: Machine) -> str:
    _require_modules("bench", "jsonschema", "matplotlib")
    sizes = "tiny and base" if machine.gpus else "tiny (64 x 128 pixels)"
    device = "GPU" if machine.gpus else "CPU"
    return f"images/s of {sizes} on the {device}: at least half of the plain loop's"


@register("throughput", seconds=300, plan=_throughput_plan)
def throughput(bench: Workbench) -> Held:
    """The trainer is nearly as fast as a plain loop on batches that are on the device."""
    _throughput_plan(bench.machine)
    figures: dict[str, Any] = {}
    texts = []
    for size in ("tiny", "base") if bench.machine.gpus else ("tiny",):
        measured = _rates(bench, size)
        figures |= {f"{size}_{name}": value for name, value in measured.items()}
        texts.append(
            f"{size}: {measured['images_per_second']:.0f} images/s, "
            f"{measured['of_plain_loop']:.2f} of the plain loop, "
            f"{measured['flop_utilisation']:.0f}% FLOP utilisation, "
            f"{measured['waiting_for_data']:.0f}% waiting for data"
        )
        if measured["of_plain_loop"] < LEAST_OF_PLAIN_LOOP:
            raise Failed(f"{texts[-1]}; at least {LEAST_OF_PLAIN_LOOP} is required", **figures)
    return Held("; ".join(texts), figures)


def _rates(bench: Workbench, size: str) -> dict[str, float]:
    """Measure a model size by `benchmarks.throughput`; return its medians."""
    from benchmarks import throughput as benchmark

    on_gpu = bool(bench.machine.gpus)
    record = benchmark.measure(
        argparse.Namespace(
            quick=not on_gpu,
            steps=4 if on_gpu else 2,
            rounds=5 if on_gpu else 3,
            engines=["single"],
            experiment=None,
            settings=[
                f"data.shards={bench.shards}",
                "data.val_templates=[]",
                f"model.size={size}",
                "model.start=random",
                "tracker=none",
            ],
            device=torch.device(bench.machine.device),
            seed=0,
        )
    )
    medians = {(entry["group"], entry["name"]): entry["median"] for entry in record["results"]}
    ratio = next(e for e in record["comparisons"] if e["against"] == benchmark.BARE)
    ours = "ours, single"
    return {
        "images_per_second": medians[benchmark.RATES, ours],
        "of_plain_loop": ratio["median"],
        "flop_utilisation": medians["model FLOP utilisation", ours],
        "waiting_for_data": medians.get(
            (f"{benchmark.SHARES}, single", benchmark.PHASES["data"]), 0.0
        ),
    }


def _export_plan(machine: Machine) -> str:
    _require_modules("export", "onnx", "onnxscript", "onnxruntime")
    return "outputs of a new model's ONNX file equal to those of PyTorch, on the CPU"


@register("export", seconds=180, plan=_export_plan)
def export(bench: Workbench) -> Held:
    """The exported ONNX graph computes what PyTorch computes."""
    _export_plan(bench.machine)
    # Imported here, because onnxruntime is an extra.
    from shards.errors import UserError
    from vaetrain.inference import onnx_graph

    experiment = small_experiment()
    data, path = experiment.data, bench.folder / "model.onnx"
    torch.manual_seed(0)
    graph = onnx_graph.WholeGraph(VAE(experiment.model, data.width, data.max_height))
    try:
        difference = onnx_graph.write_graph(graph, path, data.width, data.max_height)
    except UserError as error:
        raise Failed(str(error)) from error
    return Held(
        f"outputs of ONNX and PyTorch differ by {difference:.1e}, "
        f"tolerance {onnx_graph.TOLERANCE:.0e}",
        {"difference": difference, "tolerance": onnx_graph.TOLERANCE},
    )


def _cuda_tests_plan(machine: Machine) -> str:
    if not TESTS.is_dir():
        raise Skipped("there is no folder tests/ in an installation without the repository")
    if not has_module("pytest"):
        raise Skipped("pytest not installed; pip install -e '.[test]'")
    if not machine.gpus:
        raise Skipped("needs a GPU")
    return "the tests that need a GPU (pytest -m gpu) pass"


@register("cuda_tests", seconds=300, plan=_cuda_tests_plan)
def cuda_tests(bench: Workbench) -> Held:
    """The tests that need a GPU pass."""
    _cuda_tests_plan(bench.machine)
    log = bench.folder / "pytest.log"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", TESTS]
    with log.open("w") as output:
        done = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    if done.returncode:
        raise Failed(last_error(log))
    return Held(last_error(log))
