"""The queue of a study: every trial runs exactly once, with several processes and after crashes.

Trainings are fakes that write the metrics of a real one; test_sweep.py has real trainings.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import time
from pathlib import Path

import optuna
import pytest

from launch import trials as trials_module
from launch.study import Study, label, load_study
from launch.sweep import exclusive_lock
from launch.training_process import TrialFailed
from launch.trials import Trials
from vaetrain.settings import ConfigError

GRID = "sweep: {seeds: [0, 1], space: {beta.max: [1.0, 2.0, 3.0]}, baseline: beta.max=1.0}"


def study_of(folder: Path, text: str = GRID, *overrides: str) -> Study:
    path = folder / "mine.yaml"
    path.write_text(f"name: mine\n{text}")
    return load_study(path, list(overrides))


class FakeTrainer:
    """Fake of `launch.training_process.train`: SSIM is beta.max plus a tenth of the seed.

    Attributes:
        fails: the values of beta.max whose training fails.
        trained: (beta.max, seed) of every training in order.
    """

    def __init__(self, fails=()) -> None:
        self.fails = set(fails)
        self.trained: list[tuple[float, int]] = []

    def __call__(self, experiment, seed, folder, engine, on_validation, environment) -> Path:
        self.trained.append((experiment.beta.max, seed))
        if experiment.beta.max in self.fails:
            raise TrialFailed("out of memory")
        run_dir = folder / f"seed-{seed}"
        run_dir.mkdir(parents=True, exist_ok=True)
        lines = []
        for images in (8, 16):
            value = experiment.beta.max + seed / 10
            lines.append({"split": "train", "images": images, "loss": 1.0, "images_per_second": 4})
            lines.append({"split": "val", "images": images, "ssim": value, "l1": 0.5})
        (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for line in lines:
            if line["split"] == "val":
                on_validation(line)
        return run_dir


@pytest.fixture
def trainer(monkeypatch) -> FakeTrainer:
    fake = FakeTrainer()
    monkeypatch.setattr(trials_module, "train", fake)
    return fake


def work(folder: Path, study: Study, limit: int | None = None, **queueing) -> Trials:
    """Queue and run the trials of a study, as one call of the command does."""
    trials = Trials(study, folder, stale_seconds=2)
    trials.queue(**queueing)
    trials.work(lambda line: None, limit=limit)
    return trials


def states(trials: Trials) -> dict[str, str]:
    return {outcome.label: outcome.state for outcome in trials.outcomes()}


def test_every_setting_is_trained_once_with_every_seed(tmp_path, trainer):
    trials = work(tmp_path, study_of(tmp_path))
    assert trainer.trained == [(beta, seed) for beta in (1.0, 2.0, 3.0) for seed in (0, 1)]
    assert [trial.value for trial in trials.optuna.trials] == pytest.approx([1.05, 2.05, 3.05])
    outcome = trials.outcomes()[1]
    assert (outcome.label, outcome.state) == ("beta.max=2.0", "finished")
    assert outcome.records[1].metrics["ssim"] == 2.1
    assert outcome.records[1].curve == [[8, 2.1], [16, 2.1]]
    assert (outcome.records[1].images, outcome.records[1].seconds) == (16, 4)
    assert (trials.total(), trials.left(), trials.failures()) == (3, 0, {})


def test_a_second_call_runs_the_remaining_trials(tmp_path, trainer):
    assert work(tmp_path, study_of(tmp_path), limit=1).left() == 2
    assert len(trainer.trained) == 2
    assert work(tmp_path, study_of(tmp_path)).left() == 0
    assert len(trainer.trained) == 6
    work(tmp_path, study_of(tmp_path))
    assert len(trainer.trained) == 6


def test_a_failure_is_recorded_and_the_study_continues(tmp_path, trainer):
    trainer.fails = {2.0}
    trials = work(tmp_path, study_of(tmp_path))
    assert states(trials) == {
        "beta.max=1.0": "finished",
        "beta.max=2.0": "failed",
        "beta.max=3.0": "finished",
    }
    assert trials.failures() == {"beta.max=2.0": "out of memory"}
    trainer.fails = set()
    assert work(tmp_path, study_of(tmp_path)).failures() == {"beta.max=2.0": "out of memory"}
    trials = work(tmp_path, study_of(tmp_path), retry_failed=True)
    assert set(states(trials).values()) == {"finished"}
    assert trainer.trained.count((2.0, 1)) == 1
    assert trainer.trained.count((1.0, 0)) == 1


def test_an_unknown_metric_fails_the_setting_with_the_known_names(tmp_path, trainer):
    trials = work(tmp_path, study_of(tmp_path, GRID, "sweep.metric=fid"))
    assert set(states(trials).values()) == {"failed"}
    failure = trials.failures()["beta.max=1.0"]
    assert "does not measure 'fid'; it measures l1, loss_roughness, ssim" in failure


def test_added_seeds_are_trained_for_every_setting(tmp_path, trainer):
    work(tmp_path, study_of(tmp_path))
    trials = work(tmp_path, study_of(tmp_path, GRID, "sweep.seeds=[0,1,2]"))
    assert [sorted(outcome.records) for outcome in trials.outcomes()] == [[0, 1, 2]] * 3
    assert trials.total() == 3


def test_another_study_under_the_same_name_is_refused(tmp_path, trainer):
    work(tmp_path, study_of(tmp_path))
    with pytest.raises(
        ConfigError, match=r"other settings: train\.epochs \(was 20.*, now 2"
    ) as refusal:
        Trials(study_of(tmp_path, GRID, "train.epochs=2"), tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_study_of_an_older_version_without_a_setting_continues(tmp_path, trainer):
    trials = work(tmp_path, study_of(tmp_path), limit=1)
    known = dict(trials.optuna.user_attrs["definition"])
    del known["loss.ssim"]
    trials.optuna.set_user_attr("definition", known)
    assert work(tmp_path, study_of(tmp_path)).left() == 0
    with pytest.raises(ConfigError, match=r"loss\.ssim \(was 0\.1, now 0\.7\)"):
        Trials(study_of(tmp_path, GRID, "loss.ssim=0.7"), tmp_path)


def test_an_unavailable_database_is_refused_in_one_line(tmp_path):
    study = study_of(tmp_path, GRID, "sweep.storage=sqlite:////nowhere/at/all.db")
    with pytest.raises(ConfigError, match=r"^sweep\.storage: .*unable to open") as refusal:
        Trials(study, tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_random_and_tpe_run_the_given_number_of_trials(tmp_path, trainer, sampler):
    text = f"""sweep:
  {{seeds: [0], sampler: {sampler}, trials: 7, metric: l1, direction: minimize,
   space: {{beta.max: {{low: 0.1, high: 10.0, log: true}}, model.latent_dim: {{low: 2, high: 9}},
            beta.schedule: [constant, linear]}}}}"""
    work(tmp_path, study_of(tmp_path, text), limit=3)
    trials = work(tmp_path, study_of(tmp_path, text))
    assert len(trainer.trained) == len(trials.outcomes()) == trials.total() == 7
    trainer.trained.clear()
    more = work(tmp_path, study_of(tmp_path, text, "sweep.seeds=[0,1]", "sweep.trials=8"))
    assert len(trainer.trained) == 2 * 8
    assert more.total() == 8
    for outcome in trials.outcomes():
        assert 0.1 <= outcome.setting["beta.max"] <= 10
        assert outcome.setting["model.latent_dim"] in range(2, 10)
        assert outcome.setting["beta.schedule"] in ("constant", "linear")


def test_retry_of_a_drawn_setting_uses_the_same_values(tmp_path, trainer, monkeypatch):
    def fails(*_):
        raise TrialFailed("out of memory")

    text = """sweep: {seeds: [0], sampler: random, trials: 2,
      space: {beta.max: {low: 0.1, high: 10.0}}}"""
    monkeypatch.setattr(trials_module, "train", fails)
    failed = work(tmp_path, study_of(tmp_path, text)).failures()
    monkeypatch.setattr(trials_module, "train", trainer)
    trials = work(tmp_path, study_of(tmp_path, text), retry_failed=True)
    assert states(trials) == dict.fromkeys(failed, "finished")


def test_a_setting_worse_than_the_median_is_pruned(tmp_path, trainer):
    betas = [10.0, 11.0, 12.0, 13.0, 14.0, 1.0, 15.0]
    text = f"sweep: {{seeds: [0, 1], pruner: median, space: {{beta.max: {betas}}}}}"
    trials = work(tmp_path, study_of(tmp_path, text))
    assert [name for name, state in states(trials).items() if state == "pruned"] == ["beta.max=1.0"]
    assert (1.0, 1) not in trainer.trained  # the other seeds of a pruned setting are skipped


def test_an_interrupted_trial_is_queued_again(tmp_path, trainer, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(trials_module, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        work(tmp_path, study_of(tmp_path))
    monkeypatch.setattr(trials_module, "train", trainer)
    trials = work(tmp_path, study_of(tmp_path))
    assert set(states(trials).values()) == {"finished"}
    assert sorted(trainer.trained) == [(beta, seed) for beta in (1.0, 2.0, 3.0) for seed in (0, 1)]


def hang(folder: Path) -> None:
    """Work on a study with a training that never ends; runs in a process of its own."""
    trials_module.train = lambda *_: time.sleep(600)
    work(folder, study_of(folder))


def test_the_trial_of_a_killed_process_is_run_again(tmp_path, trainer):
    process = multiprocessing.get_context("spawn").Process(target=hang, args=(tmp_path,))
    process.start()
    deadline = time.monotonic() + 100
    while not running(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (killed,) = running(tmp_path)
    trials = work(tmp_path, study_of(tmp_path))
    assert set(states(trials).values()) == {"finished"}
    assert sorted(trainer.trained) == [(beta, seed) for beta in (1.0, 2.0, 3.0) for seed in (0, 1)]
    assert trials.optuna.trials[killed].state == optuna.trial.TrialState.FAIL


def running(folder: Path) -> list[int]:
    """Return the numbers of running trials that have a heartbeat."""
    try:
        with sqlite3.connect(folder / "study.db") as database:
            query = "select number from trials join trial_heartbeats using (trial_id) "
            return [n for (n,) in database.execute(query + "where state = 'RUNNING'")]
    except sqlite3.OperationalError:
        return []


def share(folder: Path) -> None:
    """Work on a study and record its trainings in a file; runs in a process of its own."""

    def train(experiment, seed, run_folder, engine, on_validation, environment) -> Path:
        with (folder / f"trained-{os.getpid()}").open("a") as file:
            file.write(f"{experiment.beta.max} {seed}\n")
        time.sleep(0.3)
        return FakeTrainer()(experiment, seed, run_folder, engine, on_validation, environment)

    trials_module.train = train
    study = study_of(folder, GRID.replace("3.0]", "3.0, 4.0, 5.0, 6.0]"))
    with exclusive_lock(folder):
        trials = Trials(study, folder)
        trials.queue()
    trials.work(lambda line: None)


def test_two_processes_share_the_trials(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=share, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    shares = [path.read_text() for path in tmp_path.glob("trained-*")]
    assert len(shares) == 2
    assert sorted("".join(shares).splitlines()) == [
        f"{beta}.0 {seed}" for beta in range(1, 7) for seed in (0, 1)
    ]


def test_an_empty_queue_runs_nothing(tmp_path, trainer):
    """Another process may take the last trial after this one has seen it in the queue."""
    trials = work(tmp_path, study_of(tmp_path))
    trials._run_next(lambda line: None)
    assert len(trainer.trained) == 6
    assert trials.total() == 3
    assert [label(o.setting) for o in trials.outcomes()] == [f"beta.max={n}.0" for n in (1, 2, 3)]
