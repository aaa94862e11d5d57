"""Launcher and command line start the engine of the engine file, or refuse in one line."""

import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from shards.build import build
from shards.building.options import BuildOptions
from tests.distributed.conftest import Trainer
from tests.support.commands import ACCELERATE, MAX_CPU_SECONDS, cpu_seconds_of
from tests.support.paths import REPO

TWO_STEPS = "train.max_images=16"
DDP = "accelerate_configs/ddp.yaml"


def first_line(out: str) -> str:
    return next(line for line in out.splitlines() if line)


def logged_losses(trainer, name):
    return [line["loss"] for line in trainer.lines(name)]


@pytest.fixture(scope="module")
def file_before_script(trainer):
    """A run whose command names the engine file before the script."""
    start = [ACCELERATE, "launch", "--config_file", DDP, "vaetrain/train.py"]
    check_two_ranks(trainer, "before", start)
    return "before"


def check_two_ranks(trainer, name, start):
    done = trainer.run([*start, *trainer.arguments(name, TWO_STEPS)])
    assert done.returncode == 0, done.stderr
    assert first_line(done.stdout) == (
        "engine=ddp backend=gloo world_size=2 precision=no "
        "global_batch=8 micro_batch=4 accumulation=1"
    )


@pytest.mark.parametrize(
    "script",
    [["vaetrain/train.py"], pytest.param(["-m", "vaetrain.train"], marks=pytest.mark.slow)],
)
def test_the_engine_file_may_be_given_before_or_after_the_script(
    trainer, file_before_script, script
):
    name = f"after-{script[0]}".replace("/", "-")
    check_two_ranks(trainer, name, [ACCELERATE, "launch", *script, "--config_file", "ddp"])
    expected = pytest.approx(logged_losses(trainer, file_before_script), rel=1e-6)
    assert logged_losses(trainer, name) == expected


@pytest.mark.slow
@pytest.mark.parametrize("place", ["before", "after"])
def test_one_gpu_is_one_rank_of_ddp(trainer, tmp_path, place):
    """A fake nvidia-smi shows one GPU; torch sees none and trains on the CPU."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-aaaa)'\n")
    program.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    file, script = ["--config_file", DDP], ["vaetrain/train.py"]
    start = [*file, *script] if place == "before" else [*script, *file]
    arguments = trainer.arguments(f"one-gpu-{place}", TWO_STEPS)
    done = trainer.run([ACCELERATE, "launch", *start, *arguments], PATH=path)
    assert done.returncode == 0, done.stderr
    assert first_line(done.stdout).startswith("engine=ddp backend=gloo world_size=1 ")
    if place == "before":
        many = ["--num_processes", "2", *start]
        done = trainer.run([ACCELERATE, "launch", *many, *arguments], PATH=path)
        assert done.returncode != 0
        message = "error: 2 ranks on this machine, which shows 1 GPU; write --num_processes 1, or"
        assert done.stderr.count(message) == 1


@pytest.mark.parametrize("engine", [pytest.param("single", marks=pytest.mark.slow), None])
def test_single_and_plain_python_run_one_process(trainer, engine):
    out = trainer.train(f"one-process-{engine}", TWO_STEPS, engine=engine)
    assert first_line(out).startswith("engine=single backend=none world_size=1")


@pytest.mark.slow
def test_a_second_training_in_a_run_directory_is_refused(trainer):
    """Two independent processes must not write into one run directory."""
    command = trainer.command("twice", "train.max_images=1000000", engine=None)
    first = trainer.start(command)
    try:
        trainer.wait_for("twice", first)
        second = trainer.run(command)
        assert second.returncode == 2
        assert "another training is running in this directory" in second.stderr
        assert first.poll() is None
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["before", "after"])
def test_multi_cpu_is_ddp_over_gloo(trainer, tmp_path, place):
    """With MULTI_CPU Accelerate starts one process although the file asks for two."""
    config = tmp_path / "multi_cpu.yaml"
    config.write_text((REPO / DDP).read_text().replace("MULTI_GPU", "MULTI_CPU"))
    file, script = ["--config_file", str(config)], ["vaetrain/train.py"]
    start = [*file, *script] if place == "before" else [*script, *file]
    arguments = trainer.arguments(f"multi-cpu-{place}", TWO_STEPS)
    done = trainer.run([ACCELERATE, "launch", *start, *arguments])
    assert done.returncode == 0, done.stderr
    assert first_line(done.stdout).startswith("engine=ddp backend=gloo world_size=2 ")


def test_a_default_config_file_is_named_in_the_error(trainer, tmp_path):
    """Accelerate reads it without being asked, so no setting of the user's is at fault."""
    config = tmp_path / "accelerate" / "default_config.yaml"
    config.parent.mkdir()
    config.write_text((REPO / DDP).read_text().replace("'no' #", "fp16 #"))
    start = [ACCELERATE, "launch", "vaetrain/train.py"]
    done = trainer.run([*start, *trainer.arguments("default-fp16")], HF_HOME=str(tmp_path))
    assert done.returncode != 0
    message = f"error: {config}: mixed_precision is fp16, which needs a GPU; write no or bf16 there"
    assert done.stderr.count(message) == 1
    assert "train.precision:" not in done.stderr


def test_a_second_relaunch_is_refused(trainer):
    """The process was started again once and still runs under another engine than the file's."""
    done = trainer.run(
        trainer.command("half", "--config_file", DDP, engine=None),
        VAETRAIN_RELAUNCHED=DDP,
    )
    assert done.returncode == 2
    assert "its launcher started" in done.stderr


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("train.epochs=abc", "train.epochs: 'abc' is not a number"),
        ("wrong.key=1", "wrong: there is no such setting"),
        ("train.micro_batch_size=3", "train.micro_batch_size: 3 does not divide"),
        ("train.precision=fp16", "train.precision: fp16 needs a GPU"),
        ("data.width=100", "data.width: 100 is not a multiple of the model's stride"),
        ("data.shards=nowhere", "nowhere"),
        ("--experiment=nothing.yaml", "nothing.yaml: there is no such experiment file"),
        ("--config_file=nothing.yaml", "nothing.yaml: there is no such engine file"),
    ],
)
def test_a_mistake_is_reported_in_one_line(trainer, argument, message):
    done = trainer.run(trainer.command("mistake", argument, engine=None))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_help_lists_the_settings_without_importing_torch():
    seconds, done = cpu_seconds_of(sys.executable, "vaetrain/train.py", "--help")
    assert "train.global_batch_size=16" in done.stdout
    assert seconds < MAX_CPU_SECONDS


def test_a_damaged_shard_is_refused(trainer, shards, tmp_path):
    copy = tmp_path / "damaged"
    subprocess.run(["cp", "-r", str(shards), str(copy)], check=True)
    for shard in copy.glob("train-*.tar"):
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    done = trainer.run(trainer.command("damaged-shard", f"data.shards={copy}", engine=None))
    assert done.returncode == 1
    assert "is damaged: SHA-256 differs from index.json" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_hundred_launches_exit_with_status_0_on_a_busy_machine(trainer):
    """Processes that had succeeded sometimes aborted at exit, most often on a busy machine.

    There are two launches at a time, so four ranks and two launchers keep two cores busy.
    """

    def launch(number: int) -> int:
        name = f"launch-{number}"
        done = trainer.run(trainer.command(name, TWO_STEPS, engine="ddp"))
        shutil.rmtree(trainer.folder / name)
        return done.returncode

    with ThreadPoolExecutor(2) as launchers:
        assert list(launchers.map(launch, range(100))) == [0] * 100


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("DEEPSPEED", "zero_stage of DEEPSPEED is not given"),
        ("FSDP", "no engine has distributed_type FSDP with"),
    ],
)
def test_a_launch_without_an_engine_is_refused(trainer, kind, message):
    done = trainer.run(trainer.command("other", engine=None), **{f"ACCELERATE_USE_{kind}": "true"})
    assert done.returncode == 2
    assert f"error: the launcher: {message}" in done.stderr


@pytest.mark.slow
def test_bf16_has_the_losses_of_fp32_within_its_precision(trainer):
    for precision in ("no", "bf16"):
        out = trainer.train(f"precision-{precision}", f"train.precision={precision}", TWO_STEPS)
        assert f"precision={precision}" in first_line(out)
    exact, rough = logged_losses(trainer, "precision-no"), logged_losses(trainer, "precision-bf16")
    assert rough == pytest.approx(exact, rel=0.03)
    assert rough != exact
    weights = trainer.weights("precision-bf16")
    assert {str(value.dtype) for value in weights.values()} == {"torch.float32"}


@pytest.mark.slow
def test_a_run_without_validation_pages_says_so(trainer, tmp_path):
    """In the log and in the model card; the shards have one page, which is for training."""
    boxes = [{"b": [10 * x, 20 * x, 90, 40]} for x in range(12)]
    page = {"id": "p0", "w": 390, "h": 844, "r": {"b": [0, 0, 390, 844], "c": boxes}}
    (tmp_path / "p.jsonl").write_text(json.dumps(page))
    build([tmp_path / "p.jsonl"], tmp_path / "shards", BuildOptions(workers=1))
    here = Trainer(tmp_path / "shards", tmp_path)
    out = here.train("run", TWO_STEPS, engine=None)
    (warning,) = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert warning.startswith(f"warning: nothing to validate on in {tmp_path / 'shards'}, ")
    card = (tmp_path / "run" / "final" / "README.md").read_text()
    assert "Nothing was measured: the shards have no validation pages." in card
