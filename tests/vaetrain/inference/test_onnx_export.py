"""Export of fp32 and int8 files, and the check of the SSIM that int8 loses."""

import math
import re
import sys

import pytest

from shards.build import build
from shards.building.options import BuildOptions
from shards.errors import UserError
from tests.support.commands import run_python
from tests.support.paths import SAMPLE
from vaetrain import export
from vaetrain.inference import onnx_export, onnx_graph, onnx_quantisation
from vaetrain.inference.onnx_graph import open_session, page_inputs
from vaetrain.inference.onnx_quantisation import split_pages
from vaetrain.inference.trained_model import TrainedModel


def run(monkeypatch, *argv: object) -> None:
    monkeypatch.setattr(sys, "argv", ["export", *map(str, argv)])
    assert export.main() == 0


@pytest.mark.parametrize(("loss", "written"), [(0.009, ["a.onnx"]), (0.011, []), (math.nan, [])])
def test_int8_that_loses_too_much_ssim_is_refused(loss, written, small_run, tmp_path, monkeypatch):
    scores = {"a.onnx": 0.9, "int8-a.onnx": 0.9 - loss}
    monkeypatch.setattr(
        onnx_graph, "write_graph", lambda graph, path, *size: path.write_bytes(b"fp32")
    )
    monkeypatch.setattr(
        onnx_quantisation,
        "quantise",
        lambda model, source, target, pages: target.write_bytes(b"int8"),
    )
    monkeypatch.setattr(
        onnx_quantisation, "mean_ssim", lambda model, path, pages: scores[path.name]
    )
    command = (small_run / "run", "--onnx", tmp_path / "a.onnx", "--int8", "--calibrate")
    if written:
        run(monkeypatch, *command, small_run / "shards")
        assert (tmp_path / "a.onnx").read_bytes() == b"int8"
    else:
        with pytest.raises(UserError, match="nothing written"):
            run(monkeypatch, *command, small_run / "shards")
    assert [path.name for path in tmp_path.iterdir()] == written


@pytest.mark.slow
def test_int8_is_close_to_fp32_and_smaller(small_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx_export, "MAX_SSIM_LOSS", 1.0)
    exact, small = tmp_path / "a.onnx", tmp_path / "b.onnx"
    command = (small_run / "run", "--onnx")
    run(monkeypatch, *command, exact)
    run(monkeypatch, *command, small, "--int8", "--calibrate", small_run / "shards")
    assert "not calibrated on" in capsys.readouterr().out
    assert small.stat().st_size < 0.7 * exact.stat().st_size
    trained = TrainedModel(small_run / "run")
    _, measured = split_pages(trained, small_run / "shards")
    inputs = page_inputs(trained.model, measured[0])
    before, after = (
        open_session(path).run(["reconstruction"], inputs)[0] for path in (exact, small)
    )
    assert 0 < abs(before - after).mean() < 0.05 * before.std()


@pytest.mark.slow
def test_int8_of_a_trained_model_is_a_third_of_the_size_and_keeps_its_ssim(tmp_path):
    """At the size of the default experiment; the name int8.onnx must not collide with drafts."""
    shards, run, small = tmp_path / "shards", tmp_path / "run", tmp_path / "int8.onnx"
    build([SAMPLE], shards, BuildOptions(workers=1))
    train = ["vaetrain/train.py", "--run-dir", run, f"data.shards={shards}"]
    train += ["data.val_templates=[]", "train.max_images=1024", "tracker=none"]
    export = ["-m", "vaetrain.export", run, "--onnx", small, "--int8", "--calibrate", shards]
    for command in (train, export):
        done = run_python(*command)
        assert done.returncode == 0, done.stderr
    (smaller,) = re.findall(r"int8, ([\d.]+) times smaller", done.stdout)
    assert float(smaller) >= 3
    ((exact, rough),) = re.findall(r"fp32 ([\d.]+), int8 ([\d.]+)", done.stdout)
    assert 0.85 < float(exact) < float(rough) + 0.01
    assert "not calibrated on" in done.stdout
