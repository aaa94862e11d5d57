"""Plans of large runs: known answers for a model whose sizes are given, and refusals."""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass

import pytest
import torch

from benchmarks.support.scaling_model import WeightSizes
from launch import plan as command
from launch.planning.figures import ASSUMED, COMPUTED, COUNTED, MEASURED, SET, Figure, table
from launch.planning.inputs import Cluster, ModelSizes, Pages, Rate, on_gpu, read_pages, read_rate
from launch.planning.memory import GIB, engine_memory, largest_micro_batch
from launch.planning.run_plan import Plan, PlanInputs, divisible, make_plan
from shards.errors import UserError
from tests.support.commands import run_module, run_python
from vaetrain.config.experiment import Experiment, load_experiment
from vaetrain.engines.engine_files import engine_file, read_engine_file
from vaetrain.engines.spec import ENGINES
from vaetrain.model.vae import VAE
from vaetrain.settings import ConfigError

P = 1000  # parameters
PAGES = Pages(100, 30, 512.0, 51_200.0, 64.0, None, COUNTED, "made up")
RATE = Rate(10.0, "a clock")
SETTINGS = (
    "train.global_batch_size=16",
    "train.epochs=8",
    "train.micro_batch_size=2",
    "train.checkpoint_every_images=160",
    "train.validate_every_images=500",
    "train.keep_checkpoints=2",
    "train.precision=no",
)


@dataclass
class MadeUpModel:
    """A model of 1,000 parameters, 600 of them in units of FSDP2, with `page` bytes a page."""

    page: int = 500
    weights = WeightSizes(P, 600, 50)
    buffers = 8
    gathered = 700
    largest_unit = 200

    def peak(self, pages: int) -> int:
        return 20 * P + self.page * pages

    def flops(self, rows: float) -> tuple[float, float]:
        return 1e6 * rows, 0.5e6 * rows

    def launches(self, accumulation: int) -> int:
        return 10 * accumulation


@functools.cache
def cached_experiment(*settings: str) -> Experiment:
    return load_experiment(None, list(settings))


def planned(
    engine: str = "ddp",
    *settings: str,
    cluster: Cluster | None = None,
    pages: Pages = PAGES,
    rate: Rate | None = RATE,
    model: MadeUpModel | None = None,
) -> Plan:
    """Return a plan for two GPUs on each of two machines."""
    experiment = cached_experiment(*SETTINGS, *settings)
    cluster = cluster or Cluster(2, 2)
    model = model or MadeUpModel()
    spec = ENGINES[engine]
    copy_size = cluster.gpus if spec.hybrid else cluster.ranks
    return make_plan(PlanInputs(experiment, spec, cluster, pages, model, copy_size, rate))


def values(*arguments: str, **options) -> dict[str, float | int | str]:
    """Return the values of a plan by name."""
    found = planned(*arguments, **options).figures
    assert all(figure.source for figure in found)
    assert {figure.basis for figure in found} <= {SET, COUNTED, MEASURED, ASSUMED, COMPUTED}
    assert len({figure.name for figure in found}) == len(found)
    return {figure.name: figure.value for figure in found}


def test_the_plan_of_a_small_run_is_that_by_hand():
    """800 images are 50 steps of 16 pages, each rank has 4 pages a step and computes 0.4 s."""
    cluster = Cluster(2, 2, host_gb=1e-6, disk_mb=1e-3, validation_seconds=1.5)
    found = values(cluster=cluster)
    assert (found["micro batch"], found["accumulation"]) == (2, 2)
    assert (found["images"], found["steps"], found["epochs"]) == (800, 50, 8.0)
    assert found["computing"] == pytest.approx(0.4)
    assert found["step"] == pytest.approx(0.4, abs=1e-3)
    assert found["images/s"] == pytest.approx(40, rel=1e-3)
    assert (found["state"], found["activations"], found["peak"]) == (20_000, 1000, 21_000)
    assert found["sent by a GPU"] == 2 * 3 / 4 * 4000
    assert found["sent by a node to others"] == 2 * 1 / 2 * 4000
    assert found["read from disk, step and node"] == 8 * 512
    assert found["read by a node in the first epoch"] == 51_200
    assert found["size"] == 16_000 + 2 * 8
    assert found["on disk"] == 2 * found["size"]
    assert found["standstill"] == pytest.approx(16_016 / 4 / 1000)
    assert found["written in the background in"] == pytest.approx(16_016 / 2 / 1000)
    assert (found["checkpoints"], found["validations"]) == (5, 2)
    # 30 pages on 4 ranks are 8, each of half the work of a training page, which takes 0.1 s.
    assert found["model"] == pytest.approx(8 * 0.1 * 0.5)
    validating = 2 * (0.4 + 1.5)
    total = 50 * found["step"] + validating + 5 * found["standstill"]
    assert found["time"] == pytest.approx(total)
    assert found["share of the run"] == pytest.approx(100 * validating / total)


def test_validations_and_checkpoints_are_at_the_end_too_and_at_most_one_a_step():
    often = ("train.validate_every_images=1", "train.checkpoint_every_images=3")
    found = values("ddp", *often)
    assert (found["steps"], found["validations"], found["checkpoints"]) == (50, 50, 50)
    rarely = ("train.validate_every_images=801", "train.checkpoint_every_images=799")
    found = values("ddp", *rarely)
    assert (found["validations"], found["checkpoints"]) == (1, 2)


def test_a_rate_is_assumed_unless_measured():
    cluster = Cluster(2, 2, gpu_tflops=64e-6, utilisation=0.5)
    # A page of 64 rows has 64e6 FLOP, so 0.5 pages a second.
    assert values(cluster=cluster, rate=None)["images/s of a GPU"] == pytest.approx(0.5)
    again = values("ddp", "train.checkpoint_activations=true", cluster=cluster, rate=None)
    assert again["images/s of a GPU"] == pytest.approx(0.375)
    slow = values(cluster=Cluster(2, 2, launch_us=1e6), rate=None)
    assert slow["computing"] == pytest.approx(20.0)  # 20 operations of a second
    by_precision = [
        values("ddp", *settings, rate=None)["images/s of a GPU"] * 64e6 / 0.2e12
        for settings in (("train.precision=bf16",), (), ("train.tf32=true",))
    ]
    assert by_precision == pytest.approx([989, 67, 495])
    (measured,) = [f for f in planned().figures if f.name == "images/s of a GPU"]
    assert (measured.value, measured.basis, measured.source) == (10.0, MEASURED, "a clock")


# Bytes on the GPU of weights, gradients, moments and EMA, gathered or in buffers there, and in host
# memory, of 1,000 parameters on four ranks. Rajbhandari et al. 2020, section 5, in fp32 and with an
# EMA; ZeRO also has the optimised weights of its share, and two buffers of at most all weights.
# FSDP2 gathers 700 parameters at once, and has a unit's gradients of 200 parameters twice.
STATES = {
    "ddp": (4000 + 4000 + 8000 + 4000, 0, 0),
    "zero1": (5000 + 4000 + 2000 + 1000, 8000, 0),
    "zero2": (5000 + 1000 + 2000 + 1000, 8000, 0),
    "zero3": (2000 + 1000 + 2000 + 1000, 12_000, 0),
    "zero1_offload": (4000 + 4000, 8000, 1000 + 2000 + 1000),
    "zero2_offload": (4000 + 1000, 8000, 1000 + 2000 + 1000),
    "zero3_offload": (1000, 12_000, 1000 + 1000 + 2000 + 1000),
    "fsdp2": (1000 + 1000 + 2000 + 1000, 4 * 700 + 2 * 4 * 200, 0),
    "fsdp2_hybrid": (2000 + 2000 + 4000 + 2000, 4 * 700 + 2 * 4 * 200, 0),
    "fsdp2_offload": (0, 4 * 700 + 2 * 4 * 200, 1000 + 1000 + 2000 + 1000),
}


@pytest.mark.parametrize("engine", STATES)
def test_memory_of_every_engine_is_that_by_hand(engine):
    state = engine_memory(ENGINES[engine], MadeUpModel(), 2 if engine == "fsdp2_hybrid" else 4)
    assert (state.device, state.gathered, state.host) == STATES[engine]


def test_fsdp2_keeps_whole_gradients_between_micro_batches():
    several = ("fsdp2", "train.global_batch_size=12", "train.micro_batch_size=1")
    kept = values(*several)["gathered, and buffers"]
    sliced = values(*several, "engine.reduce_each_micro_batch=true")["gathered, and buffers"]
    assert kept - sliced == 4000


def test_copies_of_one_rank_are_refused():
    with pytest.raises(ConfigError, match="--gpus: is 1, and fsdp2_hybrid divides a copy"):
        planned("fsdp2_hybrid", cluster=Cluster(4, 1))


def test_communication_overlaps_as_the_engine_does():
    """Gradients of 100 MB at 1 kB/s take much longer than the backward passes of 0.27 s."""
    model = MadeUpModel()
    model.weights = WeightSizes(25_000_000, 0, 0)
    slow = Cluster(2, 2, gpu_memory=1000.0, gpu_link_gb=1e-6, network_gbit=1e-5)
    times = {}
    for engine in ("ddp", "zero1", "fsdp2"):
        found = values(engine, cluster=slow, model=model)
        times[engine] = found["communication by itself"] - found["not hidden"]
    hidden = 1 - 25 * 2**20 / 1e8  # all buckets but the last
    backward = 2 / 3 * 0.4
    assert times["ddp"] == pytest.approx(hidden * backward / 2, rel=1e-3)  # 1 of 2 micro batches
    assert times["zero1"] == pytest.approx(0, abs=1e-6)
    assert times["fsdp2"] == pytest.approx(hidden * backward, rel=1e-3)


def test_the_largest_micro_batch_is_found_and_named():
    """Of 1 MiB, 0.9 are used; a page needs 100 kB, so nine fit beside the state."""
    model, cluster = MadeUpModel(100_000), Cluster(1, 2, gpu_memory=2**20 / GIB)
    state = engine_memory(ENGINES["ddp"], model, cluster.ranks)
    assert largest_micro_batch(model, state, cluster) == 9
    batch = ("train.global_batch_size=32", "train.micro_batch_size=16")
    does_not_fit = planned("ddp", *batch, cluster=cluster, model=model)
    (problem,) = does_not_fit.problems
    assert "a micro batch of 16 does not fit into 0.000976562 GiB" in problem
    assert "set train.micro_batch_size=8" in problem
    assert "no" in {figure.value for figure in does_not_fit.figures if figure.name == "fits"}
    fits = planned("ddp", batch[0], "train.micro_batch_size=8", cluster=cluster, model=model)
    assert fits.problems == []
    tiny = planned("ddp", cluster=Cluster(1, 2, gpu_memory=1e-6), model=model)
    assert "train.checkpoint_activations=true" in tiny.problems[0]


@pytest.mark.parametrize(("batch", "nearest"), [(64, 128), (300, 256), (330, 384)])
def test_a_global_batch_that_cannot_be_divided_is_named(batch, nearest):
    experiment = cached_experiment(*SETTINGS)
    train = dataclasses.replace(experiment.train, global_batch_size=batch, micro_batch_size=None)
    experiment = dataclasses.replace(experiment, train=train)
    changed, (problem,) = divisible(experiment, 128)
    assert changed.train.global_batch_size == nearest
    assert f"{batch} pages cannot be divided among 128 ranks; the nearest possible are" in problem
    assert f"all numbers are for train.global_batch_size={nearest}" in problem
    assert divisible(changed, 128) == (changed, [])


def test_an_engine_of_one_process_is_refused_for_more():
    with pytest.raises(ConfigError, match="are 4 ranks, but single works with 1"):
        planned("single")
    alone = values("single", cluster=Cluster(1, 1))
    assert alone["sent by a GPU"] == alone["communication by itself"] == 0


@pytest.mark.parametrize(
    ("cached", "fetched", "source"),
    [(None, 0, "not on a server"), (True, 51_200, "until the cache"), (False, 51_200, "less")],
)
def test_shards_of_a_server_are_fetched_whole(cached, fetched, source):
    pages = Pages(100, 30, 512.0, 51_200.0, 64.0, cached, COUNTED, "made up")
    (figure,) = [f for f in planned(pages=pages).figures if f.name.startswith("fetched")]
    assert figure.value == fetched
    assert source in figure.source


def test_a_node_reads_its_share_of_many_shards():
    pages = Pages(64_000, 0, 512.0, 64e6, 64.0, True, COUNTED, "made up", shards=64)
    found = values(pages=pages)
    own = found["read by a node in the first epoch"]
    assert found["fetched by a node in an epoch"] == own
    assert 64e6 / 2 <= own <= (64 / 2 + 1) * 1e6


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (999, "B", "999 B"),
        (999.9, "B", "1 kB"),
        (43_000_000, "B", "43 MB"),
        (2.5e9, "B/s", "2.5 GB/s"),
        (0.0052, "s", "5.2 ms"),
        (0.0, "s", "0 ms"),
        (90.0, "s", "1.5 min"),
        (259_200.0, "s", "3 days"),
        (12_345, "pages", "12,345 pages"),
        (9669.4, "", "9,669"),
        (12.5, "%", "12.5 %"),
        ("yes", "", "yes"),
    ],
)
def test_values_are_shown_with_a_unit_that_fits(value, unit, text):
    figure = Figure("group", "name", value, unit, COUNTED, "here")
    assert figure.text == text
    assert table([figure]).splitlines() == ["group", f"  name  {text}  counted: here"]


def test_pages_are_those_of_the_index(shards):
    experiment = load_experiment(None, [f"data.shards={shards}", "data.width=64"])
    pages = read_pages(experiment)
    index = json.loads((shards / "index.json").read_text())["shards"]
    train = [shard for shard in index if shard["split"] == "train"]
    assert pages.train == sum(shard["samples"] for shard in train)
    assert pages.val == sum(shard["samples"] for shard in index) - pages.train
    # The index has the sizes of the samples; a tar ends with two empty blocks or more.
    assert 0.5 < pages.page_bytes * pages.train / sum(s["bytes"] for s in train) < 1
    assert 16 <= pages.rows <= experiment.data.max_height
    assert pages.cached is None
    assert str(shards) in pages.source


def test_a_rate_is_read_from_the_file_of_the_benchmark(tmp_path):
    path = tmp_path / "throughput.json"
    entry = {"group": "images per second", "name": "ours, single", "median": 123.5}
    path.write_text(json.dumps({"settings": {"device": "cuda:0"}, "results": [entry]}))
    rate = read_rate(path)
    assert rate.images_per_second == 123.5
    assert rate.source == f"--profile {path}, on cuda:0"
    path.write_text(json.dumps({"settings": {"device": "cuda:0"}, "results": []}))
    with pytest.raises(UserError, match=r"throughput.json: has no rate of the engine single"):
        read_rate(path)
    with pytest.raises(UserError, match="No such file"):
        read_rate(tmp_path / "nothing.json")


def test_auto_is_what_it_is_on_a_gpu():
    launch = read_engine_file(engine_file("ddp"))
    auto = load_experiment(None, ["train.precision=auto", "train.channels_last=auto"])
    assert (on_gpu(auto, launch).train.precision, on_gpu(auto, launch).train.channels_last) == (
        "bf16",
        True,
    )
    assert on_gpu(load_experiment(None, []), launch).train.precision == "no"


@pytest.mark.slow
def test_a_real_model_has_its_own_sizes_and_more_pages_need_more_memory():
    experiment = load_experiment(None, ["data.width=64", "data.max_height=128"])
    launch = read_engine_file(engine_file("fsdp2"))
    model = ModelSizes(on_gpu(experiment, launch), launch)
    total = model.weights.parameters
    with torch.device("meta"):
        vae = VAE(experiment.model, 64, 128)
    sizes = [parameter.numel() for parameter in vae.parameters()]
    assert total == sum(sizes)
    # DeepSpeed's default of stage3_param_persistence_threshold.
    assert model.weights.persistent == sum(size for size in sizes if size < 100_000)
    assert model.gathered <= total
    assert model.weights.gathered_again < total
    one, two, three = map(model.peak, (8, 16, 24))
    assert 20 * total < one < two
    assert three - two == pytest.approx(two - one, rel=0.05)
    (training, validation), (half, _) = model.flops(128.0), model.flops(64.0)
    assert training == pytest.approx(2 * half)
    # A validation encodes once and decodes twice, without backward passes.
    assert training / 4 < validation < training
    assert model.launches(2) > 1.5 * model.launches(1)


WORLD = ("--nodes", "2", "--gpus", "2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--nodes", "0", "--gpus", "8"), "--nodes: is 0, must be a whole number in 1..100000"),
        (("--nodes", "2"), "the following arguments are required: --gpus"),
        ((*WORLD, "--gpu-memory", "-1"), "--gpu-memory: is -1, must be a number above 0"),
        ((*WORLD, "--utilisation", "2"), "must be a number above 0 and below 1"),
        ((*WORLD, "--experiment", "nothing"), "nothing: "),
        ((*WORLD, "--config_file", "zero4"), "zero4"),
        ((*WORLD, "train.epoch=3"), "train.epoch"),
        ((*WORLD, "data.shards=/nowhere"), "data.shards: /nowhere holds no index.json"),
        ((*WORLD, "--samples", "5"), "--samples, --bytes-per-sample: give both"),
        ((*WORLD, "optimizer.name=lion"), "set optimizer.name=adamw"),
        ((*WORLD, "gan.enabled=true"), "set gan.enabled=false"),
    ],
)
def test_nonsense_is_refused_in_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["launch.plan", *arguments])
    try:
        status = command.main()
    except SystemExit as done:
        status = done.code
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.slow
def test_the_command_prints_every_number_with_its_source(shards, tmp_path):
    path = tmp_path / "plan.json"
    settings = ("data.width=64", "data.max_height=128", f"data.shards={shards}", "train.epochs=2")
    arguments = (*WORLD, "--config_file", "zero2", "--json", path)
    done = run_module("launch.plan", *arguments, *settings)
    assert done.returncode == 0, done.stderr
    tree = json.loads(path.read_text())
    assert tree["can_run"] is True
    assert len(tree["figures"]) > 40
    for figure in tree["figures"]:
        assert figure["source"]
        assert figure["name"] in done.stdout
    again = run_module("launch.plan", *arguments, *settings, "--gpu-memory", "0.01")
    assert again.returncode == 1
    assert "This run cannot be started as it is set:\n- memory: " in again.stdout


@pytest.mark.slow
def test_a_plain_installation_is_enough():
    """The packages that only the benchmarks need are no part of it."""
    program = """import sys
for name in ("jsonschema", "matplotlib", "kornia", "psutil", "timm"):
    sys.modules[name] = None  # its import raises ModuleNotFoundError
import launch.planning.run_plan
"""
    done = run_python("-c", program)
    assert done.returncode == 0, done.stderr
