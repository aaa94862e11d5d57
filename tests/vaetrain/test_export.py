"""What onnxruntime makes of an exported model is what PyTorch makes of it."""

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from shards.build import build
from shards.building.options import BuildOptions
from shards.errors import UserError
from shards.open import open_index
from tests.support.models import write_run
from tests.vaetrain.model.test_vae import ARCHITECTURES, WIDTH, a_model
from vaetrain import export, load_model
from vaetrain.config.experiment import load_experiment
from vaetrain.inference import onnx_graph
from vaetrain.inference.onnx_graph import (
    TOLERANCE,
    DecoderGraph,
    EncoderGraph,
    WholeGraph,
    largest_difference,
    open_session,
    page_inputs,
    write_graph,
)
from vaetrain.inference.trained_model import TrainedModel

REPO = Path(__file__).resolve().parents[2]
EXPERIMENT = load_experiment(
    None, ["data.width=64", "data.max_height=128", "model.latent_dim=8", "data.workers=0"]
)
ROWS = 2048


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: "-".join(a.values()))
def test_every_architecture_at_any_batch_and_height(architecture, tmp_path):
    model = a_model(**architecture).requires_grad_(False)
    graph = WholeGraph(model)
    write_graph(graph, tmp_path / "model.onnx", WIDTH, ROWS)
    sizes = [(batch, (rows, WIDTH)) for batch in (1, 3, 16) for rows in (64, 80, 512, ROWS)]
    assert largest_difference(graph, tmp_path / "model.onnx", sizes) <= TOLERANCE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards with both splits, and a run whose model's weights are no special values."""
    folder = tmp_path_factory.mktemp("export")
    write_run(folder, EXPERIMENT, pages=30, noise=0.02)
    return folder


def run(monkeypatch, *argv: object) -> None:
    monkeypatch.setattr(sys, "argv", ["export", *map(str, argv)])
    assert export.main() == 0


@pytest.mark.parametrize("graph", ["decoder", pytest.param("encoder", marks=pytest.mark.slow)])
def test_encoder_and_decoder_apart(graph, folder, tmp_path):
    model = load_model(folder / "run")
    graph = EncoderGraph(model) if graph == "encoder" else DecoderGraph(model, 64, 128)
    write_graph(graph, tmp_path / "part.onnx", 64, 128)
    assert largest_difference(graph, tmp_path / "part.onnx", [(5, (96, 64))]) <= TOLERANCE


def test_it_is_calibrated_on_pages_that_it_is_not_measured_on(folder):
    trained = TrainedModel(folder / "run")
    index = open_index(folder / "shards")
    for split, batches in zip(
        ("train", "val"), export.split_pages(trained, folder / "shards"), strict=True
    ):
        ids = torch.cat([batch.ids for batch in batches]).tolist()
        assert sorted(ids) == list(index.ids(split))


@pytest.mark.parametrize(("lost", "written"), [(0.009, ["a.onnx"]), (0.011, []), (math.nan, [])])
def test_int8_that_loses_too_much_is_refused(lost, written, folder, tmp_path, monkeypatch):
    scores = {"a.onnx": 0.9, "int8-a.onnx": 0.9 - lost}
    monkeypatch.setattr(
        onnx_graph, "write_graph", lambda graph, path, *size: path.write_bytes(b"fp32")
    )
    monkeypatch.setattr(
        onnx_graph, "quantise", lambda model, source, target, pages: target.write_bytes(b"int8")
    )
    monkeypatch.setattr(onnx_graph, "mean_ssim", lambda model, path, pages: scores[path.name])
    command = (folder / "run", "--onnx", tmp_path / "a.onnx", "--int8", "--calibrate")
    if written:
        run(monkeypatch, *command, folder / "shards")
        assert (tmp_path / "a.onnx").read_bytes() == b"int8"
    else:
        with pytest.raises(UserError, match="nothing written"):
            run(monkeypatch, *command, folder / "shards")
    assert [path.name for path in tmp_path.iterdir()] == written


@pytest.mark.slow
def test_eight_bits_are_near_and_small(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "MOST_SSIM_LOST", 1.0)
    exact, small = tmp_path / "a.onnx", tmp_path / "b.onnx"
    run(monkeypatch, folder / "run", "--onnx", exact)
    run(monkeypatch, folder / "run", "--onnx", small, "--int8", "--calibrate", folder / "shards")
    assert "not calibrated on" in capsys.readouterr().out
    assert small.stat().st_size < 0.7 * exact.stat().st_size
    trained = TrainedModel(folder / "run")
    _, measured = export.split_pages(trained, folder / "shards")
    inputs = page_inputs(trained.model, measured[0])
    ours, theirs = (
        open_session(path).run(["reconstruction"], inputs)[0] for path in (exact, small)
    )
    assert 0 < abs(ours - theirs).mean() < 0.05 * ours.std()


@pytest.mark.slow
def test_a_trained_model_in_eight_bits_is_a_third_and_as_good(tmp_path):
    """At the size of the default experiment, and whatever the file is called."""
    shards, run, small = tmp_path / "shards", tmp_path / "run", tmp_path / "int8.onnx"
    build([REPO / "shards" / "sample"], shards, BuildOptions(workers=1))
    train = ["vaetrain/train.py", "--run-dir", run, f"data.shards={shards}"]
    train += ["data.val_templates=[]", "train.max_images=1024", "tracker=none"]
    export = ["-m", "vaetrain.export", run, "--onnx", small, "--int8", "--calibrate", shards]
    for command in (train, export):
        done = subprocess.run(
            [sys.executable, *map(str, command)], cwd=REPO, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    (smaller,) = re.findall(r"int8, ([\d.]+) times smaller", done.stdout)
    assert float(smaller) >= 3
    ((exact, rough),) = re.findall(r"fp32 ([\d.]+), int8 ([\d.]+)", done.stdout)
    assert 0.85 < float(exact) < float(rough) + 0.01
    assert "not calibrated on" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--onnx", "{}/a.onnx"], "no trained model"),
        (["--onnx", "{}"], "is a folder"),
        (["--onnx", "{}/a.onnx", "--int8"], "go together"),
        (["--onnx", "{}/a.onnx", "--int8", "--calibrate", "{}/none"], "index.json"),
    ],
)
def test_mistakes_get_one_line(arguments, says, folder, tmp_path, monkeypatch, capsys):
    trained = folder / "run" if "{}/none" in arguments else tmp_path / "nothing"
    with pytest.raises((SystemExit, ValueError)) as raised:
        run(monkeypatch, trained, *(text.format(tmp_path) for text in arguments))
    assert says in capsys.readouterr().err + str(raised.value)
    assert not list(tmp_path.glob("*.onnx"))


def test_without_onnx_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"\[export\]"):
        run(monkeypatch, "run", "--onnx", tmp_path / "a.onnx")
