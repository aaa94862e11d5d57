"""Records of a run: complete lines, continued from the checkpoint after a resume."""

import json
import time

import pytest

from shards.atomic_files import CannotWrite
from vaetrain.artifacts.run_dir import METRICS_FILE, read_metrics
from vaetrain.config.experiment import load_experiment
from vaetrain.reporting.run_log import RunLog, Stopwatch, summary_lines
from vaetrain.settings import ConfigError

QUIET = load_experiment(None, ["tracker=none"])


def open_log(folder, images=0, enabled=True) -> RunLog:
    return RunLog(folder, QUIET, horizon=100, images=images, enabled=enabled)


def test_lines_after_the_checkpoint_are_dropped(tmp_path):
    log = open_log(tmp_path)
    for images in (16, 32, 48):
        log.write_metrics("train", images, {"loss": 1.0 / images, "unmeasured": None})
    log.close()
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"split": "train", "images": 64, "lo')  # a crash in the middle of a line
    log = open_log(tmp_path, images=32)
    log.write_metrics("train", 40, {"loss": 9.0})
    log.close()
    lines = read_metrics(tmp_path / METRICS_FILE)
    assert [line["images"] for line in lines] == [16, 32, 40]
    assert lines[0] == {"split": "train", "images": 16, "loss": 1.0 / 16}


def test_lines_are_in_the_file_as_soon_as_they_are_written(tmp_path):
    log = open_log(tmp_path)
    log.write_metrics("val", 16, {"l1": 0.5})
    assert json.loads((tmp_path / METRICS_FILE).read_text())["l1"] == 0.5
    log.close()


def test_a_full_disk_neither_loses_nor_truncates_lines(full_disk, capsys):
    log = open_log(full_disk.folder)
    log.write_metrics("train", 16, {"loss": 1.0})
    path = full_disk.folder / METRICS_FILE
    with full_disk.filled():
        for images in (32, 48, 64):
            log.write_metrics("train", images, {"loss": 1.0, "long": "x" * 5000})
        with pytest.raises(CannotWrite, match=r"metrics\.jsonl: cannot be written"):
            log.sync()
        assert [line["images"] for line in read_metrics(path)] == [16]
        assert path.read_bytes().endswith(b"\n")
    log.write_metrics("train", 80, {"loss": 1.0})
    log.sync()
    log.close()
    assert [line["images"] for line in read_metrics(path)] == [16, 32, 48, 64, 80]
    (message,) = capsys.readouterr().out.splitlines()
    assert message.startswith(f"warning: {path}: cannot be written (")


@pytest.mark.parametrize("text", ["\0\0\0\n", "[1]\n", '{"split": "train"}\n', "{\n"])
def test_a_damaged_line_is_named(tmp_path, text):
    path = tmp_path / METRICS_FILE
    path.write_text('{"split": "train", "images": 16}\n' + text)
    with pytest.raises(ConfigError, match=r"metrics\.jsonl: line 2 is damaged") as refusal:
        open_log(tmp_path, images=16)
    assert "\n" not in str(refusal.value)


def test_only_the_main_process_writes(tmp_path, capsys):
    log = open_log(tmp_path, enabled=False)
    log.write_metrics("train", 16, {"loss": 1.0})
    log.print("hello")
    log.close()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_summary_lists_the_run_and_its_baselines(tmp_path):
    scores = {"l1": 0.0125, "ssim": 0.91}
    results = {
        "images": 160,
        "best": {"images": 128, **scores},
        "baselines": {"blank page": {"l1": 0.12, "ssim": 0.02}},
    }
    text = "\n".join(summary_lines(tmp_path, results, ["show it"]))
    assert "0.0125" in text
    assert "blank page" in text
    assert text.endswith("\nopen it: show it")
    assert len(summary_lines(tmp_path, {"images": 1, "best": {}, "baselines": {}}, [])) == 1


def test_stopwatch_excludes_pauses_from_the_elapsed_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    watch = Stopwatch(synchronise=lambda: pass_by(0.5))
    for _ in range(2):
        with watch.phase("data"):
            pass_by(1.0)
        with watch.phase("forward"):
            pass_by(2.0)
    with watch.paused(), watch.phase("validation"):
        pass_by(10.0)
    assert watch.seconds == {"data": 3.0, "forward": 5.0, "validation": 10.5}
    assert watch.elapsed == 8.0
    watch.restart(64)
    assert (watch.images, watch.elapsed, dict(watch.seconds)) == (64, 0.0, {})
