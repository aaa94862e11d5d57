"""Trials of a study: a queue in the storage of Optuna that several processes share.

A trial is a setting with all its seeds. All trials are queued before the first one runs: those of a
grid with their values, those of other samplers without. So any number of processes together run
exactly the requested number of trials. A trial whose process died is queued again, and its
trainings resume from their checkpoints.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from launch.study import FREE_TO_CHANGE, Setting, Study, folder_name, label
from launch.training_process import Record, TrialFailed, read_record, train
from vaetrain.config.experiment import Experiment, as_dict
from vaetrain.settings import ConfigError, flatten

# User attributes of trials, and of the study.
QUEUED, SKIPPED, FAILURE, SEED = "queued", "skipped", "failure", "seed "
DEFINITION, TRACKED_AS = "definition", "mlflow run"
POLL_SECONDS = 2.0

warnings.filterwarnings("ignore", category=ExperimentalWarning, message=".*(heartbeat|stale).*")


@contextmanager
def _storage_failures() -> Iterator[None]:
    """Turn database errors into a ConfigError with a one-line message."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"sweep.storage: {reason}") from error


@dataclass(frozen=True)
class Outcome:
    """State and results of a setting.

    Attributes:
        state: `finished`, `pruned`, `failed`, `running` or `waiting`.
        records: results by seed.
        folder: folder of its runs, possibly on another machine.
        failure: error message if it failed.
    """

    setting: Setting
    state: str
    records: dict[int, Record]
    folder: Path
    failure: str | None = None

    @property
    def label(self) -> str:
        return label(self.setting)


class Trials:
    """The queue of a study and the loop that works on it.

    Attributes:
        environment: further variables of every training.
    """

    def __init__(self, study: Study, folder: Path, *, stale_seconds: int = 60) -> None:
        """Open or create the storage; raise ConfigError if it holds another study."""
        self.study = study
        self.folder = folder
        self.environment: dict[str, str] = {}
        url = study.sweep.storage or f"sqlite:///{folder.resolve() / 'study.db'}"
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with _storage_failures():
            # SQLite allows one writer at a time; other processes wait up to a minute.
            options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
            storage = optuna.storages.RDBStorage(
                url,
                engine_kwargs=options,
                heartbeat_interval=max(1, stale_seconds // 4),
                grace_period=stale_seconds,
                heartbeat_stale_trial_callback=_queue_again,
            )
            self.optuna = optuna.create_study(
                storage=storage,
                sampler=_sampler(study),
                pruner=_pruner(study),
                study_name=study.name,
                direction=study.sweep.direction,
                load_if_exists=True,
            )
            self._check_definition()

    def _check_definition(self) -> None:
        current = self.study.definition()
        stored = self.optuna.user_attrs.get(DEFINITION)
        if stored is None:
            self.optuna.set_user_attr(DEFINITION, current)
            return
        # A setting that was added to the trainer since then had, in effect, its default.
        stored = flatten(as_dict(Experiment())) | stored
        changed = [
            f"{key} (was {stored.get(key)}, now {current.get(key)})"
            for key in sorted(current.keys() | stored.keys() - FREE_TO_CHANGE)
            if current.get(key) != stored.get(key)
        ]
        if changed:
            raise ConfigError(
                f"the study {self.study.name} was started with other settings: "
                f"{', '.join(changed)}; use another name=... for the new study"
            )

    def queue(self, *, retry_failed: bool = False) -> None:
        """Queue the trials that are missing. Callers must hold an exclusive lock."""
        with _storage_failures():
            known = self._newest()
            done = [
                self._values(trial)
                for trial in known
                if self._covers(trial) and not (retry_failed and trial.state == TrialState.FAIL)
            ]
            if self.study.sweep.sampler == "grid":
                wanted, new = self.study.grid(), 0
            else:
                wanted = [values for trial in known if (values := self._values(trial))]
                new = self.study.sweep.trials - len(known)
            missing = [chosen for chosen in wanted if chosen not in done]
            for chosen in [*missing, *[{}] * new]:
                self.optuna.enqueue_trial(chosen, user_attrs={QUEUED: chosen})

    def _own_trials(self) -> list[FrozenTrial]:
        """Return the trials of the queue in order, without skipped duplicates."""
        return [
            trial
            for trial in self.optuna.get_trials(deepcopy=False)
            if QUEUED in trial.user_attrs and SKIPPED not in trial.user_attrs
        ]

    def _covers(self, trial: FrozenTrial) -> bool:
        """Return whether a trial covers its setting; it does not if seeds were added since."""
        is_done = trial.state == TrialState.COMPLETE
        return not is_done or set(self.study.sweep.seeds) <= _records(trial).keys()

    def _values(self, trial: FrozenTrial) -> Setting:
        """Return the setting of a trial, in the order of the space; empty if not chosen yet."""
        values = trial.params or trial.user_attrs[QUEUED]
        return {name: values[name] for name in self.study.space if name in values}

    def work(self, report: Callable[[str], None], limit: int | None = None) -> None:
        """Run trials until all are done, here or in other processes, or `limit` were run here.

        Args:
            report: called with one line of text for every event of a trial.
        """
        self._ran, self._is_waiting = 0, False
        with _storage_failures():
            while (limit is None or self._ran < limit) and self._run_or_wait(report):
                pass

    def _run_or_wait(self, report: Callable[[str], None]) -> bool:
        """Run a trial, or wait for trials of other processes; return False if all are done."""
        optuna.storages.fail_stale_trials(self.optuna)
        states = [trial.state for trial in self._own_trials()]
        if TrialState.WAITING in states:
            self._is_waiting = False
            self._run_next(report)
        elif TrialState.RUNNING in states:
            if not self._is_waiting:
                report(f"waiting for {states.count(TrialState.RUNNING)} trials of other processes")
            self._is_waiting = True
            time.sleep(POLL_SECONDS)
        else:
            return False
        return True

    def _run_next(self, report: Callable[[str], None]) -> None:
        self._current: int | None = None
        try:
            self.optuna.optimize(
                lambda trial: self._run(trial, report), n_trials=1, catch=(TrialFailed,)
            )
        except KeyboardInterrupt:
            # Only after the training has ended, or another process would start it too early.
            if self._current is not None:
                _queue_again(self.optuna, self.optuna.trials[self._current])
            raise

    def _run(self, trial: optuna.Trial, report: Callable[[str], None]) -> float:
        """Train all seeds of a trial; return the mean of the metric over them."""
        chosen = self._choose(trial)
        if QUEUED not in trial.user_attrs or self._is_done_by_another(trial):
            # Another process took the last queued trial, or queued the same setting.
            trial.set_user_attr(SKIPPED, True)
            raise optuna.TrialPruned
        self._current = trial.number
        self._ran += 1
        name, seeds = label(chosen), self.study.sweep.seeds
        report(f"{name}: training, seeds {', '.join(map(str, seeds))}")
        try:
            value = fmean(self._train(trial, chosen, seed) for seed in seeds)
        except (TrialFailed, ConfigError) as error:
            trial.set_user_attr(FAILURE, str(error))
            report(f"{name}: failed: {error}")
            raise TrialFailed(str(error)) from error
        except optuna.TrialPruned:
            report(f"{name}: pruned, worse than the median of the other settings")
            raise
        report(f"{name}: {self.study.sweep.metric} {value:.5g}")
        return value

    def _choose(self, trial: optuna.Trial) -> Setting:
        chosen = {}
        for name, choices in self.study.space.items():
            if isinstance(choices, list):
                chosen[name] = trial.suggest_categorical(name, choices)
            else:
                whole = isinstance(choices["low"], int) and isinstance(choices["high"], int)
                suggest = trial.suggest_int if whole else trial.suggest_float
                log = choices.get("log", False)
                chosen[name] = suggest(name, choices["low"], choices["high"], log=log)
        return chosen

    def _is_done_by_another(self, trial: optuna.Trial) -> bool:
        others = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
        return any(
            other.number < trial.number
            and other.state in others
            and other.params == trial.params
            and self._covers(other)
            for other in self._own_trials()
        )

    def _train(self, trial: optuna.Trial, chosen: Setting, seed: int) -> float:
        metric, is_first = self.study.sweep.metric, seed == self.study.sweep.seeds[0]

        def on_validation(line: dict[str, Any]) -> None:
            if is_first and metric in line:
                trial.report(line[metric], step=line["images"])
                if trial.should_prune():
                    raise optuna.TrialPruned

        experiment = self.study.experiment_of(chosen)
        folder = self.folder / folder_name(chosen)
        run_dir = train(
            experiment, seed, folder, self.study.engine, on_validation, self.environment
        )
        record = read_record(run_dir, metric)
        trial.set_user_attr(f"{SEED}{seed}", record.as_dict())
        return record.metrics[metric]

    @property
    def tracked_as(self) -> str | None:
        """Identifier of the study's run in MLflow; None before it has one."""
        return self.optuna.user_attrs.get(TRACKED_AS)

    @tracked_as.setter
    def tracked_as(self, run_id: str) -> None:
        with _storage_failures():
            self.optuna.set_user_attr(TRACKED_AS, run_id)

    def total(self) -> int:
        """Return the number of settings of the study."""
        return len(self._newest())

    def left(self) -> int:
        """Return the number of settings that are waiting or running."""
        return sum(not trial.state.is_finished() for trial in self._newest())

    def failures(self) -> dict[str, str]:
        """Return the error messages of failed settings by label."""
        return {o.label: o.failure for o in self.outcomes() if o.failure is not None}

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes of settings with chosen values, in the order of the queue."""
        return [
            Outcome(
                setting=values,
                state=_STATES[trial.state],
                records=_records(trial),
                folder=self.folder / folder_name(values),
                failure=trial.user_attrs.get(FAILURE),
            )
            for trial in self._newest()
            if (values := self._values(trial))
        ]

    def _newest(self) -> list[FrozenTrial]:
        """Return one trial for each setting: the one that was queued last."""
        newest: dict[str, FrozenTrial] = {}
        for trial in self._own_trials():
            is_abandoned = trial.state == TrialState.FAIL and FAILURE not in trial.user_attrs
            if not is_abandoned:
                values = self._values(trial)
                newest[label(values) if values else f"trial {trial.number}"] = trial
        return list(newest.values())


_STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def _records(trial: FrozenTrial) -> dict[int, Record]:
    """Return the results of a trial by seed."""
    return {
        int(key.removeprefix(SEED)): Record(**value)
        for key, value in trial.user_attrs.items()
        if key.startswith(SEED)
    }


def _queue_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue an interrupted trial again, with the same values."""
    chosen = trial.params or trial.user_attrs.get(QUEUED)
    if chosen is not None:
        study.enqueue_trial(chosen, user_attrs={QUEUED: chosen})


def _sampler(study: Study) -> optuna.samplers.BaseSampler:
    if study.sweep.sampler == "tpe":
        # Running settings count as bad ones, so that parallel processes try different settings.
        return optuna.samplers.TPESampler(constant_liar=True)
    return optuna.samplers.RandomSampler()


def _pruner(study: Study) -> optuna.pruners.BasePruner:
    if study.sweep.pruner == "median":
        return optuna.pruners.MedianPruner(n_warmup_steps=study.sweep.prune_after_images)
    return optuna.pruners.NopPruner()
