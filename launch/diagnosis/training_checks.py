"""Checks by short real trainings: precisions, engines, resuming, micro batches, the VAE-GAN."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from launch.diagnosis.machine import Machine
from launch.diagnosis.outcome import Failed, Held, Skipped
from launch.diagnosis.registry import register
from launch.diagnosis.support import engine_problem, precision_problem
from launch.diagnosis.trainings import (
    GLOBAL_BATCH,
    STEPS,
    Workbench,
    largest_difference,
    require_at_most,
)
from launch.processes import kill_family
from shards.atomic_files import sha256_of
from vaetrain.engines.engine_files import engine_names

OFFLOAD = "zero3_offload"
ENGINES = tuple(name for name in engine_names() if name not in ("single", OFFLOAD))
LOW_PRECISION_TOLERANCE = {"bf16": 0.01, "fp16": 0.01}
CHECKPOINTS = f"train.checkpoint_every_images={GLOBAL_BATCH}"
RESUME_TOLERANCE = 1e-3  # of weights where the device's own kernels do not repeat their sums
SMALL_MICRO_BATCH = 4  # pages
GAN_R1 = (
    "gan.enabled=true",
    "gan.start_epoch=0",
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
A_TRAINING = f"{STEPS} steps"


def _fp32_plan(machine: Machine) -> str:
    if machine.gpus:
        return f"{A_TRAINING} by one process on a GPU and on the CPU: equal losses"
    return f"{A_TRAINING} by one process: finite losses that fall; other checks compare with them"


@register("precision_fp32", seconds=180, plan=_fp32_plan)
def precision_fp32(bench: Workbench) -> Held:
    """Training in fp32 works in one process; on a GPU its losses are those of the CPU."""
    lines = bench.reference()
    if bench.machine.gpus:
        difference = largest_difference(bench.train("on-cpu", "single", on_gpu=False), lines)
        text = require_at_most(difference, bench.tolerance, f"losses of GPU and CPU: {A_TRAINING}")
        return Held(text, {"difference": difference, "tolerance": bench.tolerance})
    largest_difference(lines, lines)  # raises Failed where a loss is not finite
    first, last = lines[0]["loss"], lines[-1]["loss"]
    figures = {"first_loss": first, "last_loss": last}
    if not last < first:
        raise Failed(f"the loss rose from {first:.3f} to {last:.3f} in {A_TRAINING}", **figures)
    return Held(f"the loss fell from {first:.3f} to {last:.3f} in {A_TRAINING}", figures)


def _precision_plan(precision: str, machine: Machine) -> str:
    if problem := precision_problem(precision, machine):
        raise Skipped(problem)
    losses = "finite losses, the first one" if precision == "fp16" else "losses"
    return f"{A_TRAINING} by one process in {precision}: {losses} close to those of fp32"


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
    steps = "the first step" if precision == "fp16" else A_TRAINING
    text = require_at_most(difference, tolerance, f"losses of {precision} and fp32 in {steps}")
    return Held(text, {"difference": difference, "tolerance": tolerance})


for _name in LOW_PRECISION_TOLERANCE:
    register(f"precision_{_name}", seconds=120, plan=partial(_precision_plan, _name))(
        partial(_precision, _name)
    )


def _engine_plan(engine: str, machine: Machine) -> str:
    if problem := engine_problem(engine, machine):
        raise Skipped(problem)
    return f"{A_TRAINING} on {machine.where}: losses equal to those of one process"


def _engine(engine: str, bench: Workbench) -> Held:
    """Return how far an engine's losses are from those of one process."""
    _engine_plan(engine, bench.machine)
    expected = bench.reference()
    difference = largest_difference(bench.train(engine, engine), expected)
    log = bench.log(engine).read_text()
    ranks = bench.machine.ranks
    if f"engine={engine} " not in log or f"world_size={ranks} " not in log:
        raise Failed(f"the log does not say engine={engine} world_size={ranks}")
    what = f"losses of {A_TRAINING} and those of one process"
    text = require_at_most(difference, bench.tolerance, what)
    figures = {"difference": difference, "tolerance": bench.tolerance, "world_size": ranks}
    return Held(f"{bench.machine.where}: {text}", figures)


for _name in ENGINES:
    register(f"engine_{_name}", seconds=180, plan=partial(_engine_plan, _name), engine=_name)(
        partial(_engine, _name)
    )


def _resume_engine(machine: Machine) -> str:
    return "single" if machine.ranks == 1 else "ddp"


def _resume_plan(machine: Machine) -> str:
    engine = _resume_engine(machine)
    return f"{engine} on {machine.where}: kill -9 after a checkpoint, resume: the same weights"


@register("resume", seconds=240, plan=_resume_plan)
def resume(bench: Workbench) -> Held:
    """A killed and resumed training ends with the weights of one without interruption.

    The latter is the training that other checks compare, so it saves no checkpoint on the way.
    """
    engine = _resume_engine(bench.machine)
    bench.train(engine, engine)
    process, mark = bench.start("killed", engine, CHECKPOINTS)
    checkpoints = bench.folder / "killed" / "checkpoints"
    while not list(checkpoints.glob("[0-9]*")):
        if process.poll() is not None:
            raise Failed(f"the training ended before its first checkpoint: {bench.error('killed')}")
        time.sleep(0.01)
    kill_family(mark)
    process.wait()
    if (bench.folder / "killed" / "final").exists():
        raise Failed("the training ended before it was killed")
    bench.train("killed", engine, CHECKPOINTS)
    if "resuming at" not in bench.log("killed").read_text():
        raise Failed("the second start did not resume from a checkpoint")
    if weights(bench, "killed") == weights(bench, engine):
        return Held(f"{engine}, killed by SIGKILL and resumed: bit-identical final weights")
    bench.train("repeated", engine)
    if weights(bench, "repeated") == weights(bench, engine):
        raise Failed("the final weights differ from those of a training without interruption")
    difference = weight_difference(bench, "killed", engine)
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
        np.concatenate(
            [values.ravel() for _, values in sorted(load_file(path).items())], dtype=float
        )
        for path in (final_model(bench, name), final_model(bench, other))
    )
    return float(np.linalg.norm(first - second) / np.linalg.norm(second))


def _micro_batch_plan(machine: Machine) -> str:
    return (
        f"{A_TRAINING} by one process in micro batches of {SMALL_MICRO_BATCH} pages: losses equal "
        f"to those with micro batches of {GLOBAL_BATCH}"
    )


@register("micro_batch", seconds=180, plan=_micro_batch_plan)
def micro_batch(bench: Workbench) -> Held:
    """The size of the micro batch does not change the losses."""
    lines = bench.train("accumulated", "single", f"train.micro_batch_size={SMALL_MICRO_BATCH}")
    difference = largest_difference(lines, bench.reference())
    what = f"losses of micro batches of {SMALL_MICRO_BATCH} and of {GLOBAL_BATCH} pages"
    text = require_at_most(difference, bench.tolerance, what)
    return Held(text, {"difference": difference, "tolerance": bench.tolerance})


def _vaegan_plan(machine: Machine) -> str:
    text = f"{A_TRAINING} of a VAE-GAN with R1 by one process"
    if machine.ranks == 1:
        return f"{text}: finite losses"
    return f"{text} and by ddp on {machine.where}: equal losses"


@register("vaegan_r1", seconds=240, plan=_vaegan_plan)
def vaegan_r1(bench: Workbench) -> Held:
    """A VAE-GAN with the R1 regulariser, which needs second derivatives, trains on any ranks."""
    lines = bench.train("gan", "single", *GAN_R1)
    if not {"d_loss", "r1"} <= lines[-1].keys():
        raise Failed("the discriminator did not train: the log has no d_loss and r1")
    if bench.machine.ranks == 1:
        largest_difference(lines, lines, GAN_COMPARED)
        return Held(f"{A_TRAINING} in one process, losses finite")
    difference = largest_difference(bench.train("gan-ddp", "ddp", *GAN_R1), lines, GAN_COMPARED)
    what = f"losses of ddp and of one process in {A_TRAINING}"
    text = require_at_most(difference, GAN_TOLERANCE, what)
    return Held(text, {"difference": difference, "tolerance": GAN_TOLERANCE})


def _offload_plan(machine: Machine) -> str:
    return f"{OFFLOAD}: {_engine_plan(OFFLOAD, machine)}"


@register("offload", seconds=180, plan=_offload_plan, engine=OFFLOAD)
def offload(bench: Workbench) -> Held:
    """ZeRO-3 with weights and optimizer state in host memory trains as one process."""
    return _engine(OFFLOAD, bench)
