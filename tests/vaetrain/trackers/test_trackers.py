"""Trackers: several at once, the same run after a resume, and failing services."""

import importlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
import torch

from tests.support import chromium
from tests.support.models import perturbed_model
from tests.support.paths import REPO
from vaetrain import load_model, startup
from vaetrain.artifacts.final_model import write_final
from vaetrain.config.experiment import load_experiment
from vaetrain.reporting.run_log import RunLog, read_metrics
from vaetrain.settings import ConfigError
from vaetrain.trackers.base import RunTracker, TrackedRun
from vaetrain.trackers.mlflow import FOLDER_VARIABLE, PARENT_VARIABLE
from vaetrain.trackers.registry import TRACKERS, TrackerSpec

SMALL = (
    "data.width=64",
    "data.max_height=128",
    "data.val_templates=[]",
    "model.latent_dim=8",
    "model.start=random",
    "train.global_batch_size=8",
    "train.epochs=100000",
    "train.log_every_images=8",
    "train.validate_every_images=16",
    "train.checkpoint_every_images=16",
)

SMALL_EXPERIMENT = load_experiment(None, [*SMALL, "tracker=mlflow"])


@pytest.mark.parametrize("text", ["none", "mlflow", "tensorboard,mlflow", "wandb,tensorboard"])
def test_several_trackers_at_once(text):
    names = load_experiment(None, [f"tracker={text}"]).trackers
    assert names == [name for name in text.split(",") if name != "none"]


@pytest.mark.parametrize("text", ["tensorboard,none", "mlflow,mlflow", "mlflow,", "comet"])
def test_an_unknown_or_repeated_tracker_is_refused(text):
    with pytest.raises(ConfigError, match=r"^tracker: .*allowed: tensorboard \| mlflow \| wandb"):
        load_experiment(None, [f"tracker={text}"])


def test_a_tracker_that_is_not_installed_is_refused_at_the_start(monkeypatch, capsys):
    real = importlib.util.find_spec

    def find_spec(name: str) -> object:
        return None if name == "wandb" else real(name)

    monkeypatch.setattr("importlib.util.find_spec", find_spec)
    with pytest.raises(SystemExit) as exit_:
        startup.start(["tracker=tensorboard,wandb"])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: tracker=tensorboard,wandb needs wandb")
    assert "pip install -e '.[track]'" in line


class RecordingTracker(RunTracker):
    """A new tracker: one class, which the test below adds to the table."""

    name = "recording"

    def __init__(self, run: TrackedRun) -> None:
        self.run = run
        self.points: list[tuple[int, dict]] = []

    def start(self) -> None:
        self.run_id = self.run.run_id or "first"

    def store_init_configuration(self, values: dict) -> None:
        self.settings = values

    def log(self, values: dict, step: int) -> None:
        self.points.append((step, values))

    def finish(self) -> None:
        pass


def test_a_class_in_the_table_is_a_tracker(tmp_path, monkeypatch):
    """One class and one entry, as the recipe for a new tracker says."""
    spec = TrackerSpec(__name__, "RecordingTracker", "json")
    monkeypatch.setitem(TRACKERS, "recording", spec)
    experiment = load_experiment(None, ["name=mine"])
    monkeypatch.setattr(type(experiment), "trackers", ["recording"])
    for images in (0, 8):
        log = RunLog(tmp_path, experiment, horizon=64, images=images, enabled=True)
        log.start_trackers()
        (tracker,) = log.trackers
        assert tracker.run == TrackedRun(tmp_path, "mine", images, "first" if images else None)
        log.write_metrics("train", images + 8, {"loss": 1.0})
        log.close()
        assert tracker.points == [(images + 8, {"train/loss": 1.0})]
        assert tracker.settings["name"] == "mine"


def test_every_tracker_of_the_table_is_a_choice_of_the_setting():
    for name, spec in TRACKERS.items():
        assert load_experiment(None, [f"tracker={name}"]).trackers == [name]
        tracker_class = getattr(importlib.import_module(spec.module), spec.class_name)
        assert issubclass(tracker_class, RunTracker)


def test_the_table_imports_neither_torch_nor_a_tracker():
    """The check of settings must not wait for these imports."""
    code = "import sys, vaetrain.trackers.registry; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    assert not {"torch", "tensorboard", "mlflow", "wandb"} & set(done.stdout.split())


class FailingTracker:
    """A tracker whose service stopped."""

    name = "failing"
    failures = (ConnectionError,)

    def log(self, values: dict, step: int) -> None:
        raise ConnectionError("no\nanswer")


def test_a_failing_tracker_is_switched_off_and_the_run_continues(tmp_path, capsys):
    quiet = load_experiment(None, ["tracker=none"])
    log = RunLog(tmp_path, quiet, horizon=32, images=0, enabled=True)
    steps = []
    working = SimpleNamespace(
        name="working",
        failures=(),
        log=lambda values, step: steps.append(step),
        finish=lambda: None,
    )
    log.trackers = [FailingTracker(), working]
    log.write_metrics("train", 8, {"loss": 1.0})
    log.write_metrics("train", 16, {"loss": 0.5})
    log.close()
    assert steps == [8, 16]
    message = "warning: tracker failing failed and is switched off: no answer"
    assert capsys.readouterr().out.count(message) == 1
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2


@pytest.fixture
def local_store(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder of runs with a local MLflow store, no server."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    yield tmp_path
    mlflow.end_run()
    mlflow.set_tracking_uri(None)


def an_mlflow_log(runs: Path, images: int, *settings: str) -> RunLog:
    (runs / "run").mkdir(exist_ok=True)
    experiment = load_experiment(None, ["tracker=mlflow", "name=mine", *settings])
    log = RunLog(runs / "run", experiment, horizon=64, images=images, enabled=True)
    log.start_trackers()
    return log


def test_mlflow_continues_the_same_run_after_a_resume(local_store):
    log = an_mlflow_log(local_store, 0)
    for images in (8, 16, 24):
        log.write_metrics("train", images, {"loss": 1 / images})
    log.close()
    (run_id,) = {run.info.run_id for run in mlflow.search_runs(**all_experiments())}
    assert mlflow.get_run(run_id).info.status == "KILLED"

    log = an_mlflow_log(local_store, 16, "train.epochs=7")
    log.write_metrics("train", 24, {"loss": 1 / 24})
    log.write_metrics("train", 32, {"loss": 1 / 32})
    log.write_metrics("val", 32, {"ssim": 0.5})
    log.write_pictures(32, {"latent/page": np.zeros((4, 4), np.uint8)})
    model = perturbed_model(SMALL_EXPERIMENT.model, 64, 128, 0.05)
    write_final(local_store / "run" / "final", model, SMALL_EXPERIMENT, {}, {})
    (local_store / "run" / "experiment.yaml").write_text("name: mine\n")
    log.write_final_model(local_store / "run" / "final")
    log.close()

    (run,) = mlflow.search_runs(**all_experiments())
    assert (run.info.run_id, run.info.run_name, run.info.status) == (run_id, "mine", "FINISHED")
    history = mlflow.MlflowClient().get_metric_history(run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(n, 1 / n) for n in (8, 16, 24, 32)]
    assert run.data.params["train.epochs"] == "100.0"
    assert run.data.tags["train.epochs"] == "7.0"
    kept = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="final")
    stored = load_model(kept).state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())
    text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/experiment.yaml")
    assert text == "name: mine\n"
    (logged,) = run.outputs.model_outputs
    assert logged.step == 32
    encoder = mlflow.pyfunc.load_model(f"runs:/{run_id}/model")
    pages = torch.rand(2, 1, 32, 64, generator=torch.Generator().manual_seed(0))
    latents = encoder.predict(pages.numpy())
    with torch.no_grad():
        mu, _ = model.encode(pages, torch.tensor([32, 32]))
    assert latents == pytest.approx(mu.numpy(), abs=1e-5)
    assert run.info.artifact_uri.startswith((local_store / "mlartifacts").as_uri())


def test_a_run_is_in_the_experiment_of_the_settings(local_store):
    an_mlflow_log(local_store, 0, "tracker.experiment=landing pages").close()
    (run,) = mlflow.search_runs(**all_experiments())
    experiment = mlflow.get_experiment(run.info.experiment_id)
    assert experiment.name == "landing pages"


def test_a_training_of_a_study_is_a_child_in_the_store_of_the_study(local_store, monkeypatch):
    (local_store / "study").mkdir()
    monkeypatch.setenv(FOLDER_VARIABLE, str(local_store / "study"))
    monkeypatch.setenv(PARENT_VARIABLE, "5" * 32)
    an_mlflow_log(local_store, 0).close()
    assert (local_store / "study" / "mlflow.db").exists()
    (run,) = mlflow.search_runs(**all_experiments())
    assert run.data.tags["mlflow.parentRunId"] == "5" * 32


def test_each_tracker_names_the_command_that_shows_the_run(local_store, monkeypatch):
    experiment = load_experiment(None, ["tracker=tensorboard,mlflow"])
    (local_store / "my run").mkdir()
    log = RunLog(local_store / "my run", experiment, horizon=64, images=0, enabled=True)
    log.start_trackers()
    log.close()
    assert log.viewers == [
        f"tensorboard --logdir '{local_store}/my run'",
        f"mlflow ui --backend-store-uri sqlite:///{local_store}/mlflow.db",
    ]
    log.trackers = []
    assert log.viewers == []


def all_experiments() -> dict:
    return {"search_all_experiments": True, "output_format": "list"}


def test_an_unreachable_server_is_refused_with_one_line(local_store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ConfigError, match=r"^tracker: mlflow: .*127\.0\.0\.1") as refusal:
        an_mlflow_log(local_store, 0)
    assert "\n" not in str(refusal.value)


@pytest.fixture
def server(tmp_path) -> Iterator[str]:
    """The address of a real MLflow server with an empty store."""
    port = free_port()
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "server")]
    process = subprocess.Popen(command, start_new_session=True, env=environment)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_healthy(f"{address}/health", process)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_healthy(address: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 180
    while True:
        assert process.poll() is None
        assert time.monotonic() < deadline
        try:
            if urllib.request.urlopen(address, timeout=5).status == 200:
                return
        except OSError:
            time.sleep(0.5)


def train(run_dir: Path, *settings: str, **environment: str) -> str:
    """Run a training, which must succeed, and return its output."""
    done = subprocess.run(
        [sys.executable, "vaetrain/train.py", "--run-dir", str(run_dir), *SMALL, *settings],
        cwd=REPO,
        env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"} | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_an_mlflow_server_has_the_run_and_the_model(tmp_path, shards, server):
    settings = (f"data.shards={shards}", "tracker=tensorboard,mlflow")
    where = {"MLFLOW_TRACKING_URI": server}
    train(tmp_path / "run", *settings, "train.max_images=16", **where)
    train(tmp_path / "run", *settings, "train.max_images=32", **where)

    client = mlflow.MlflowClient(server)
    (experiment,) = client.search_experiments(filter_string="name = 'vaetrain'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["model.latent_dim"] == "8"
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    for split, name in (("train", "loss"), ("val", "ssim")):
        history = client.get_metric_history(run.info.run_id, f"{split}/{name}")
        assert [(point.step, point.value) for point in history] == [
            (line["images"], pytest.approx(line[name])) for line in lines if line["split"] == split
        ]
    assert run.data.params["tracker.use"] == "tensorboard,mlflow"
    kept = client.download_artifacts(run.info.run_id, "final", str(tmp_path))
    expected, stored = load_model(tmp_path / "run").state_dict(), load_model(kept).state_dict()
    assert expected.keys() == stored.keys()
    assert all(torch.equal(expected[name], stored[name]) for name in expected)
    assert list((tmp_path / "run" / "events").rglob("events.out.*"))


@pytest.mark.slow
def test_weights_and_biases_works_offline(tmp_path, shards):
    settings = (f"data.shards={shards}", "tracker=wandb", "train.max_images=16")
    train(tmp_path / "run", *settings, WANDB_MODE="offline")
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    (record,) = folder.glob("*.wandb")
    content = record.read_bytes()
    assert b"train/loss" in content
    assert b"model.latent_dim" in content
    assert b"model.safetensors" in content


@chromium.needs_chromium_command
@pytest.mark.slow
def test_tensorboard_opens_in_a_browser_without_an_error(tmp_path, shards):
    train(tmp_path / "run", f"data.shards={shards}", "train.max_images=16")
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path / "run")]
    process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)])
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_healthy(f"{address}/data/environment", process)
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
        options += [f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=30000"]
        done = subprocess.run(
            [chromium.COMMAND, *options, "--dump-dom", f"{address}/#timeseries"],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
    finally:
        process.kill()
        process.wait()
    assert "reconstructions" in done.stdout
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not [line for line in console if "Uncaught" in line or "Failed to load" in line]
