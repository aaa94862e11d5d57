"""The sweep command with real trainings: killed, run by two processes, failing, and smoke runs."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest

from tests.support.paths import EXPERIMENTS, REPO

SWEEP = [sys.executable, "-m", "launch.sweep"]
SMALL = (
    "data.width=64",
    "data.max_height=128",
    "data.val_templates=[]",
    "model.size=tiny",
    "model.start=random",
    "tracker=none",
)
STUDY = """
name: mine
sweep:
  seeds: [0]
  baseline: beta.max=1.0
  space: {beta.max: [0.5, 1.0, 2.0]}
model: {latent_dim: 8}
train:
  global_batch_size: 8
  epochs: 100000
  max_images: 640
  log_every_images: 8
  validate_every_images: 320
  checkpoint_every_images: 64
"""


class Sweep:
    """The sweep command on a study of three small settings."""

    def __init__(self, folder: Path, shards: Path) -> None:
        self.folder = folder
        self.study = folder / "study.yaml"
        self.study.write_text(STUDY)
        self.run_dir = folder / "run"
        self.command = [
            *SWEEP,
            str(self.study),
            "--run-dir",
            str(self.run_dir),
            "--stale-after",
            "4",
        ]
        self.command += [f"data.shards={shards}", *SMALL]

    def start(self, *settings: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.command, *settings],
            cwd=REPO,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *settings: str) -> tuple[int, str]:
        """Run the command to its end; return exit status and output."""
        process = self.start(*settings)
        out, _ = process.communicate(timeout=900)
        return process.returncode, out

    def log(self, beta: float) -> str:
        """Return the log of the trainings of a setting; empty before the first."""
        path = self.run_dir / f"beta.max={beta}" / "seed-0.log"
        return path.read_text() if path.exists() else ""

    def wait_for_training(self, beta: float, process: subprocess.Popen[str]) -> None:
        """Wait until a setting has a checkpoint."""
        checkpoints = self.run_dir / f"beta.max={beta}" / "seed-0" / "checkpoints"
        deadline = time.monotonic() + 400
        while not list(checkpoints.glob("0*")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def wait_for_orphans(self) -> None:
        """Wait until no process has the run directory on its command line."""
        deadline = time.monotonic() + 90
        while processes_naming(str(self.run_dir)):
            assert time.monotonic() < deadline, processes_naming(str(self.run_dir))
            time.sleep(0.2)


@pytest.fixture
def sweep(tmp_path, shards) -> Sweep:
    return Sweep(tmp_path, shards)


def processes_naming(text: str) -> list[str]:
    """Return the command lines of running processes that contain a text."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return [line for line in lines if text in line]


@pytest.mark.slow
@pytest.mark.parametrize("stop_signal", [signal.SIGKILL, signal.SIGTERM], ids=lambda n: n.name)
def test_stopped_sweep_finishes_the_remaining_trials(sweep, stop_signal):
    process = sweep.start()
    sweep.wait_for_training(1.0, process)
    process.send_signal(stop_signal)
    process.communicate()
    assert process.returncode == (130 if stop_signal == signal.SIGTERM else -stop_signal)
    sweep.wait_for_orphans()
    before = sweep.log(0.5)
    assert not sweep.log(2.0)

    status, out = sweep.run()
    assert status == 0, out
    assert sweep.log(0.5) == before
    assert before.count("finished after 640 images") == 1
    assert sweep.log(1.0).count("resuming at") == 1
    assert sweep.log(1.0).count("finished after 640 images") == 1
    assert sweep.log(2.0).count("engine=single") == 1
    report = (sweep.run_dir / "report.html").read_text()
    assert "3 finished" in report
    assert report.count("<img") == 3 + 2 + 1 + 3  # metrics, curves, rate and distortion, pages

    status, out = sweep.run()
    assert (status, sweep.log(2.0).count("engine=")) == (0, 1)


@pytest.mark.slow
def test_a_study_is_one_run_in_mlflow_with_a_child_for_each_setting_and_seed(sweep, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    status, out = sweep.run("tracker=mlflow", "train.max_images=8", "tracker.experiment=pages")
    assert status == 0, out
    client = mlflow.MlflowClient(f"sqlite:///{sweep.run_dir / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("pages")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    assert {run.info.run_name for run in children} == {
        f"mine/beta.max={beta}/seed-0" for beta in (0.5, 1.0, 2.0)
    }
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.data.params["beta.max"] for run in children} == {"0.5", "1.0", "2.0"}
    assert all("val/ssim" in run.data.metrics for run in children)
    assert {run.info.status for run in runs} == {"FINISHED"}
    kept = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"report.html", "report.md", "report"} <= kept
    scores = {run.info.run_name: run.data.metrics["val/ssim"] for run in children}
    assert parent.data.metrics["best/ssim"] == pytest.approx(max(scores.values()))
    # Several settings may be equally good after so few images.
    best = f"mine/{parent.data.tags['best setting']}/seed-0"
    assert scores[best] == pytest.approx(max(scores.values()))
    assert "Settings of `beta.max`" in parent.data.tags["mlflow.note.content"]
    assert parent.data.tags["mlflow.source.name"].endswith("sweep.py")

    status, out = sweep.run("tracker=mlflow", "train.max_images=8", "tracker.experiment=pages")
    assert status == 0, out
    assert len(client.search_runs([experiment.experiment_id])) == 4


@pytest.mark.slow
def test_two_processes_share_the_trials_of_a_study(sweep):
    processes = [sweep.start(), sweep.start()]
    outs = [process.communicate(timeout=900)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outs
    for beta in (0.5, 1.0, 2.0):
        assert sweep.log(beta).count("engine=single") == 1
    trained = [out.count("training, seeds") for out in outs]
    assert sorted(trained) == [1, 2]


@pytest.mark.slow
def test_a_failed_training_is_reported_and_the_others_run(sweep):
    text = STUDY.replace("beta.max: [0.5, 1.0, 2.0]", "data.width: [64, 72, 80]")
    sweep.study.write_text(text.replace("baseline: beta.max=1.0", "baseline: data.width=64"))
    status, out = sweep.run("train.max_images=8")
    assert status == 1, out
    assert "failed: data.width=72: seed 0: data.width: 72 is not a multiple" in out
    assert "2 finished, 1 failed" in (sweep.run_dir / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.yaml"], "nothing.yaml: there is no such study file"),
        (["launch/experiments/default.yaml"], "default.yaml: is not a study file"),
        (["launch/experiments/beta_sweep.yaml", "beta.maxx=3"], "beta.maxx: there is no such"),
        (["launch/experiments/beta_sweep.yaml", "sweep.x=3"], "sweep.x: there is no such setting"),
        (
            ["launch/experiments/beta_sweep.yaml", "--trials-per-process", "0"],
            "whole number in 1..",
        ),
    ],
)
def test_a_wrong_argument_is_refused_in_one_line_before_anything_is_written(
    tmp_path, arguments, message
):
    command = [*SWEEP, *arguments, "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("launch.sweep: ")
    assert message in line
    assert not (tmp_path / "run").exists()


def test_help_lists_the_settings_of_a_study():
    done = subprocess.run([*SWEEP, "--help"], cwd=REPO, capture_output=True, text=True, check=True)
    assert "sweep.sampler=grid" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_file_runs(path, tmp_path, shards):
    """Train one step of every setting; two settings of the grid's 144."""
    settings = [f"data.shards={shards}", *SMALL]
    if "\nsweep:" in path.read_text():
        command = [*SWEEP, str(path), "--smoke", *settings]
        if path.stem == "grid":
            command.append("sweep.trials=2")
    else:
        command = [sys.executable, "vaetrain/train.py", "--experiment", str(path), *settings]
        command += ["train.max_images=1", "train.global_batch_size=8"]
    done = subprocess.run(
        [*command, "--run-dir", str(tmp_path / "run")],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
