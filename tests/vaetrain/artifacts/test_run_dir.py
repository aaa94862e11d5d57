"""Run directory: its exclusive lock, its results, and the metrics file on a full disk."""

import json
import subprocess
import sys

import pytest

from vaetrain.artifacts import run_dir
from vaetrain.artifacts.run_dir import MetricsFile, RunDir, read_metrics
from vaetrain.config.experiment import Experiment, load_experiment
from vaetrain.settings import ConfigError

LINES = [{"split": "train", "images": images, "loss": 0.5} for images in (16, 32)]
HOLD_LOCK = """
import sys
from pathlib import Path
from vaetrain.artifacts.run_dir import RunDir
run = RunDir(Path(sys.argv[1]))
run.lock()
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other_training(tmp_path):
    """Process that holds the lock of tmp_path / "run"."""
    command = [sys.executable, "-c", HOLD_LOCK, str(tmp_path / "run")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_locked_directory_is_refused_until_its_process_ends(tmp_path, monkeypatch, other_training):
    monkeypatch.setattr(run_dir, "LOCK_SECONDS", 0.0)
    with pytest.raises(ConfigError, match="run: another training is running in this directory"):
        RunDir(tmp_path / "run").lock()
    other_training.kill()
    other_training.wait()
    RunDir(tmp_path / "run").lock()


def test_directory_that_cannot_be_created_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="run: cannot be written"):
        RunDir(tmp_path / "file" / "run").lock()


def test_written_experiment_is_loaded_back(tmp_path):
    run = RunDir(tmp_path)
    run.write_experiment(Experiment())
    assert load_experiment(run.experiment_file, []) == Experiment()


def test_run_is_finished_once_it_has_results(tmp_path):
    run = RunDir(tmp_path)
    assert not run.is_finished
    run.final.mkdir()
    (run.final / "config.json").write_text(json.dumps({"results": {"images": 16}}))
    assert run.is_finished
    assert run.results() == {"images": 16}


@pytest.mark.parametrize("text", ["", "[]", "{}", "nonsense"])
def test_damaged_results_are_refused(tmp_path, text):
    run = RunDir(tmp_path)
    run.final.mkdir()
    (run.final / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json: damaged"):
        run.results()


def test_metrics_are_read_back_in_order(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for line in LINES:
        file.append(line)
    file.sync()
    assert read_metrics(tmp_path / "metrics.jsonl") == LINES
    file.close()


def test_full_disk_keeps_lines_pending_and_the_file_whole(full_disk):
    path = full_disk.folder / "metrics.jsonl"
    file = MetricsFile(path)
    file.append(LINES[0])
    with full_disk.filled():
        long_line = LINES[1] | {"ids": list(range(5000))}  # longer than a block of the disk
        with pytest.raises(OSError, match=r"No space left|File too large"):
            file.append(long_line)
        assert read_metrics(path) == LINES[:1]
        assert path.read_bytes().endswith(b"\n")
    file.close()
    assert read_metrics(path) == [LINES[0], long_line]


def test_line_cut_off_by_a_crash_is_ignored(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(LINES[0]) + "\n" + '{"split": "tr')
    assert read_metrics(path) == LINES[:1]
    assert read_metrics(tmp_path / "absent.jsonl") == []


@pytest.mark.parametrize("text", ["nonsense", "[1]", '{"split": "train"}'])
def test_foreign_line_is_refused_by_its_number(tmp_path, text):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{json.dumps(LINES[0])}\n{text}\n{json.dumps(LINES[1])}\n")
    with pytest.raises(ConfigError, match=r"metrics\.jsonl: line 2 is damaged"):
        read_metrics(path)
