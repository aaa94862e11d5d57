"""Checks by short real trainings: precisions, engines, resuming, micro batches, the VAE-GAN."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file

from launch.diagnosis.machine import Machine
from launch.diagnosis.outcome import Failed, Held, Skipped
from launch.diagnosis.registry import register
from launch.diagnosis.support import engine_problem, precision_problem
from launch.diagnosis.trainings import IMAGES, Workbench, largest_difference, require_at_most
from launch.processes import kill_family
from shards.atomic_files import sha256_of
from vaetrain.engines.engine_files import engine_names

OFFLOAD = "zero3_offload"
ENGINES = tuple(name for name in engine_names() if name not in ("single", OFFLOAD))
LOW_PRECISION_TOLERANCE = {"bf16": 0.01, "fp16": 0.01}
RESUMED = ("train.max_images=200", "train.checkpoint_every_images=24")
RESUME_TOLERANCE = 1e-3  # of weights where the device's own kernels do not repeat their sums
MICRO_BATCHES = (16, 4)
GAN_R1 = (
    "train.max_images=160",
    "gan.enabled=true",
    "gan.start_epoch=1",
    "gan.warmup_epochs=0.5",
    "gan.channels=8",
    "gan.discriminator=light",
    "gan.loss=nonsaturating",
    "gan.regularizer=r1",
    "gan.lr=1e-4",
    "gan.schedule.schedule=constant",
    "gan.schedule.warmup_epochs=0",
)
GAN_COMPARED = ("loss", "recon", "d_loss", "r1")
GAN_TOLERANCE = 1e-3
STEPS = f"{IMAGES // 8} steps"


def _fp32_plan(machine: Machine) -> str:
    if machine.gpus:
        return f"{STEPS} of one process on a GPU and on the CPU, equal losses"
    return f"{STEPS} of one process, twice: the same bits"


@register("precision_fp32", seconds=180, plan=_fp32_plan)
def precision_fp32(bench: Workbench) -> Held:
    """Training in fp32 is exact: on a GPU that of the CPU, on a CPU that of any repetition."""
    lines = bench.reference()
    if bench.machine.gpus:
        difference = largest_difference(bench.train("on-cpu", "single", on_gpu=False), lines)
        text = require_at_most(difference, bench.tolerance, f"losses of GPU and CPU in {STEPS}")
        return Held(text, {"difference": difference, "tolerance": bench.tolerance})
    difference = largest_difference(bench.train("repeated", "single"), lines)
    if difference or weights(bench, "repeated") != weights(bench, "single"):
        raise Failed("the same training gave other weights", difference=difference)
    return Held(f"{STEPS} repeated bit for bit, losses finite", {"difference": difference})


def _precision_plan(precision: str, machine: Machine) -> str:
    if problem := precision_problem(precision, machine):
        raise Skipped(problem)
    return f"{STEPS} of one process in {precision}, losses compared with fp32"


def _precision(precision: str, bench: Workbench) -> Held:
    _precision_plan(precision, bench.machine)
    expected = bench.reference()
    lines = bench.train(precision, "single", f"train.precision={precision}")
    if precision == "fp16":
        # The first steps may be skipped until the loss scale fits; the first loss cannot differ.
        largest_difference(lines, expected)
        lines, expected = lines[:1], expected[:1]
    difference = largest_difference(lines, expected, ("loss", "recon"))
    if difference == 0:
        raise Failed(f"the losses are those of fp32: {precision} was not used")
    tolerance = LOW_PRECISION_TOLERANCE[precision]
    steps = "the first step" if precision == "fp16" else STEPS
    text = require_at_most(difference, tolerance, f"losses of {precision} and fp32 in {steps}")
    return Held(text, {"difference": difference, "tolerance": tolerance})


for _name in LOW_PRECISION_TOLERANCE:
    register(f"precision_{_name}", seconds=120, plan=partial(_precision_plan, _name))(
        partial(_precision, _name)
    )


def _engine_plan(engine: str, machine: Machine) -> str:
    if problem := engine_problem(engine, machine):
        raise Skipped(problem)
    return f"{STEPS} on {machine.where}, losses compared with one process"


def _engine(engine: str, bench: Workbench) -> Held:
    """Return how far an engine's losses are from those of one process."""
    _engine_plan(engine, bench.machine)
    expected = bench.reference()
    difference = largest_difference(bench.train(engine, engine), expected)
    log = bench.log(engine).read_text()
    ranks = bench.machine.ranks
    if f"engine={engine} " not in log or f"world_size={ranks} " not in log:
        raise Failed(f"the log does not say engine={engine} world_size={ranks}")
    text = require_at_most(difference, bench.tolerance, f"losses of {STEPS} and one process")
    figures = {"difference": difference, "tolerance": bench.tolerance, "world_size": ranks}
    return Held(f"{bench.machine.where}: {text}", figures)


for _name in ENGINES:
    register(f"engine_{_name}", seconds=120, plan=partial(_engine_plan, _name), engine=_name)(
        partial(_engine, _name)
    )


def _resume_engine(machine: Machine) -> str:
    return "single" if machine.ranks == 1 else "ddp"


def _resume_plan(machine: Machine) -> str:
    engine = _resume_engine(machine)
    return f"{engine} on {machine.where}: kill -9 after a checkpoint, run again, same weights"


@register("resume", seconds=240, plan=_resume_plan)
def resume(bench: Workbench) -> Held:
    """A training that is killed and resumed ends with the weights of an undisturbed one."""
    engine = _resume_engine(bench.machine)
    bench.train("undisturbed", engine, *RESUMED)
    process, mark = bench.start("killed", engine, *RESUMED)
    checkpoints = bench.folder / "killed" / "checkpoints"
    while not list(checkpoints.glob("[0-9]*")):
        if process.poll() is not None:
            raise Failed(f"the training ended before its first checkpoint: {bench.error('killed')}")
        time.sleep(0.01)
    kill_family(mark)
    process.wait()
    if (bench.folder / "killed" / "final").exists():
        raise Failed("the training ended before it was killed")
    bench.train("killed", engine, *RESUMED)
    if "resuming at" not in bench.log("killed").read_text():
        raise Failed("the second start did not resume from a checkpoint")
    if weights(bench, "killed") == weights(bench, "undisturbed"):
        return Held("killed by SIGKILL and resumed: the same final weights, bit for bit")
    bench.train("undisturbed-again", engine, *RESUMED)
    if weights(bench, "undisturbed-again") == weights(bench, "undisturbed"):
        raise Failed("the resumed training has other final weights than the undisturbed one")
    difference = weight_difference(bench, "killed", "undisturbed")
    text = require_at_most(difference, RESUME_TOLERANCE, "weights of a resumed training")
    return Held(f"kernels here do not repeat their sums bit for bit; {text}")


def final_model(bench: Workbench, name: str) -> Path:
    """Return the path of a training's final weights."""
    return bench.folder / name / "final" / "model.safetensors"


def weights(bench: Workbench, name: str) -> str:
    """Return the SHA-256 of a training's final weights."""
    return sha256_of(final_model(bench, name))


def weight_difference(bench: Workbench, name: str, other: str) -> float:
    """Return the relative difference of the final weights of two trainings."""
    first, second = (
        torch.cat([tensor.double().flatten() for _, tensor in sorted(load_file(path).items())])
        for path in (final_model(bench, name), final_model(bench, other))
    )
    return float((first - second).norm() / second.norm())


def _micro_batch_plan(machine: Machine) -> str:
    large, small = MICRO_BATCHES
    return f"{IMAGES // large} steps of {large} pages, as micro batches of {large} and of {small}"


@register("micro_batch", seconds=180, plan=_micro_batch_plan)
def micro_batch(bench: Workbench) -> Held:
    """The size of the micro batch does not change the losses."""
    large, small = (
        bench.train(
            f"micro-{size}",
            "single",
            f"train.global_batch_size={MICRO_BATCHES[0]}",
            f"train.micro_batch_size={size}",
        )
        for size in MICRO_BATCHES
    )
    difference = largest_difference(small, large)
    text = require_at_most(difference, bench.tolerance, "losses of micro batches of 4 and of 16")
    return Held(text, {"difference": difference, "tolerance": bench.tolerance})


def _vaegan_plan(machine: Machine) -> str:
    text = "20 steps of a VAE-GAN with R1 in one process"
    return text if machine.ranks == 1 else f"{text} and by ddp on {machine.where}, equal losses"


@register("vaegan_r1", seconds=240, plan=_vaegan_plan)
def vaegan_r1(bench: Workbench) -> Held:
    """A VAE-GAN with the R1 regulariser, which needs second derivatives, trains on any ranks."""
    lines = bench.train("gan", "single", *GAN_R1)
    if not {"d_loss", "r1"} <= lines[-1].keys():
        raise Failed("the discriminator did not train: the log has no d_loss and r1")
    if bench.machine.ranks == 1:
        largest_difference(lines, lines, GAN_COMPARED)
        return Held("20 steps in one process, losses finite")
    difference = largest_difference(bench.train("gan-ddp", "ddp", *GAN_R1), lines, GAN_COMPARED)
    text = require_at_most(difference, GAN_TOLERANCE, "losses of ddp and one process in 20 steps")
    return Held(text, {"difference": difference, "tolerance": GAN_TOLERANCE})


@register("offload", seconds=120, plan=partial(_engine_plan, OFFLOAD), engine=OFFLOAD)
def offload(bench: Workbench) -> Held:
    """ZeRO-3 with weights and optimizer state in host memory trains as one process."""
    return _engine(OFFLOAD, bench)
