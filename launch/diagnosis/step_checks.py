"""Checks of the training step in one process: device, compilation, memory."""

from __future__ import annotations

import time
from statistics import median

import torch
from torch._dynamo.utils import counters

from benchmarks.support import memory
from benchmarks.support.batch_size.trainer_step import PageLosses, made_up_batch, work_of_a_step
from benchmarks.support.harness import synchronize
from launch import small_run
from launch.diagnosis.device_path import forward_on_fake_gpu, parameters_without_gradient
from launch.diagnosis.machine import Machine, has_module
from launch.diagnosis.outcome import Failed, Held, Skipped
from launch.diagnosis.registry import register
from launch.diagnosis.trainings import Workbench, require_at_most
from vaetrain.config.command import experiment_path
from vaetrain.config.experiment import Experiment, load_experiment
from vaetrain.engines.model_options import apply_options

COMPILE_TOLERANCE = 1e-5  # of fp32 losses, relative
COMPILE_ROWS = (32, 64, 128)
COMPILE_ROUNDS = {"cpu": 1, "cuda": 3}
MEMORY_TOLERANCE = {"cpu": 0.1, "cuda": 0.25}  # workspaces of cuDNN are not predicted
PAGES = {"cpu": (2, 4, 8), "cuda": (8, 32, 64)}


def small_experiment(*settings: str) -> Experiment:
    """Return the experiment of the small run."""
    return load_experiment(None, [*small_run.SETTINGS, *settings])


def _device_plan(machine: Machine) -> str:
    if machine.gpus:
        return (
            "forward and backward twice on the GPU; the second time, the host must not wait for it"
        )
    return "forward on fake CUDA tensors, backward on fake CPU tensors: shapes without values"


@register("device_path", seconds=90, plan=_device_plan)
def device_path(bench: Workbench) -> Held:
    """The step stays on the device and never synchronises, and every weight gets a gradient."""
    experiment, on_gpu = small_experiment("skips.dropout=0.3"), bool(bench.machine.gpus)
    try:
        if not on_gpu:
            forward_on_fake_gpu(experiment)
        missing = parameters_without_gradient(experiment, fake=not on_gpu)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise Failed(f"the step left the device, synchronised or failed: {reason}") from error
    if missing:
        raise Failed(f"{len(missing)} weights got no gradient: {', '.join(missing[:3])}")
    if on_gpu:
        return Held("forward and backward on the GPU without synchronisation")
    return Held("forward on fake CUDA tensors, backward on fake CPU tensors: no GPU here")


def _compile_plan(machine: Machine) -> str:
    if machine.compiler is None:
        raise Skipped("no C++ compiler (c++, g++ or clang++)")
    if machine.gpus and not has_module("triton"):
        raise Skipped("triton is not installed")
    backend = compile_backend(machine)
    note = "" if machine.gpus else " (inductor takes minutes on a CPU)"
    heights = f"pages of {len(COMPILE_ROWS)} heights"
    return f"{heights}, eager and compiled by {backend}{note}: equal losses"


def compile_backend(machine: Machine) -> str:
    """Return the backend of torch.compile that is checked."""
    return "inductor" if machine.gpus else "aot_eager"


@register("compile", seconds=300, plan=_compile_plan)
def compiled(bench: Workbench) -> Held:
    """Compiled losses equal eager ones, at several heights with few graphs."""
    device, backend = torch.device(bench.machine.device), compile_backend(bench.machine)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    experiment = small_experiment("augment.mixup_alpha=0", "augment.policy=none")
    width = experiment.data.width
    eager = PageLosses(experiment, device)
    quick = PageLosses(experiment, device)
    apply_options(quick.model, device, compile=True, compile_backend=backend)
    batches = [made_up_batch(4, (rows, width), device) for rows in COMPILE_ROWS]
    counters.clear()
    difference, graphs, seconds = 0.0, [], {"eager": [], "compiled": []}
    for batch in batches:
        expected, losses = eager(batch), quick(batch)
        losses.sum().backward()
        difference = max(difference, float(((losses - expected) / expected).detach().abs().max()))
        graphs.append(counters["stats"]["unique_graphs"])
    for _ in range(COMPILE_ROUNDS[device.type]):
        for batch in batches:
            for name, step in (("eager", eager), ("compiled", quick)):
                seconds[name].append(_seconds(step, batch, device))
    ratio = median(a / b for a, b in zip(seconds["eager"], seconds["compiled"], strict=True))
    figures = {"speed_ratio": ratio, "graphs": graphs[-1], "graphs_at_first_height": graphs[0]}
    text = require_at_most(difference, COMPILE_TOLERANCE, f"losses of eager and {backend}")
    if not graphs[0]:
        raise Failed("nothing was compiled", **figures)
    recompiled = graphs[-1] - graphs[0]
    return Held(
        f"{text}; {graphs[0]} graphs at the first height, {recompiled} more at "
        f"{len(COMPILE_ROWS) - 1} others; {ratio:.2f} times the speed of eager",
        {"difference": difference, **figures},
    )


def _seconds(step: PageLosses, batch: object, device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    step(batch).sum().backward()
    synchronize(device)
    return time.perf_counter() - start


def _memory_plan(machine: Machine) -> str:
    kind = torch.device(machine.device).type
    source = "CUDA's allocator" if kind == "cuda" else "the profiler"
    sizes = ", ".join(map(str, PAGES[kind]))
    return (
        f"peak memory of steps of {sizes} pages, predicted on fake tensors and measured by "
        f"{source}: within {MEMORY_TOLERANCE[kind]:.0%}"
    )


@register("memory", seconds=150, plan=_memory_plan)
def peak_memory(bench: Workbench) -> Held:
    """The predicted peak memory of a step is the measured one."""
    device = torch.device(bench.machine.device)
    experiment = small_experiment("augment.mixup_alpha=0")
    if bench.machine.gpus:
        experiment = load_experiment(experiment_path("default"), ["model.start=random"])
    size = (experiment.data.max_height, experiment.data.width)
    figures, largest = {}, 0.0
    for pages in PAGES[device.type]:
        work = work_of_a_step(experiment, pages, size)
        predicted, measured = memory.predict(work, device), memory.measure(work, device)
        largest = max(largest, abs(predicted / measured - 1))
        figures[f"mb_at_{pages}_pages"] = [round(n / 1e6, 1) for n in (predicted, measured)]
    text = require_at_most(
        largest, MEMORY_TOLERANCE[device.type], "predicted and measured peaks", **figures
    )
    shown = ", ".join(f"{a:g} and {b:g} MB" for a, b in figures.values())
    return Held(f"{text} ({shown})", {"difference": largest, **figures})
