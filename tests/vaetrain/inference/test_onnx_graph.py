"""Exported graphs in onnxruntime, compared with PyTorch."""

import numpy as np
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from shards.errors import UserError
from tests.support.models import ARCHITECTURES, architecture_name
from tests.vaetrain.model.pages import WIDTH, build_model
from vaetrain import load_model
from vaetrain.inference import onnx_graph
from vaetrain.inference.onnx_graph import (
    TOLERANCE,
    DecoderGraph,
    EncoderGraph,
    WholeGraph,
    largest_difference,
    write_graph,
)

MAX_HEIGHT = 2048


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=architecture_name)
def test_every_architecture_equals_pytorch_at_any_batch_size_and_height(architecture, tmp_path):
    model = build_model(**architecture).requires_grad_(False)
    graph = WholeGraph(model)
    write_graph(graph, tmp_path / "model.onnx", WIDTH, MAX_HEIGHT)
    sizes = [(batch, (rows, WIDTH)) for batch in (1, 3, 16) for rows in (64, 80, 512, MAX_HEIGHT)]
    assert largest_difference(graph, tmp_path / "model.onnx", sizes) <= TOLERANCE


@pytest.mark.parametrize("graph", ["decoder", pytest.param("encoder", marks=pytest.mark.slow)])
def test_separate_encoder_and_decoder_equal_pytorch(graph, run_folder, tmp_path, recwarn):
    model = load_model(run_folder / "run")
    graph = EncoderGraph(model) if graph == "encoder" else DecoderGraph(model, 64, 128)
    write_graph(graph, tmp_path / "part.onnx", 64, 128)
    assert largest_difference(graph, tmp_path / "part.onnx", [(5, (96, 64))]) <= TOLERANCE
    assert not [each for each in recwarn if "axis name" in str(each.message)]  # not of interest


@pytest.mark.slow
def test_decoded_levels_equal_pytorch(tmp_path):
    model = build_model(output="levels", attention="none").requires_grad_(False)
    graph = DecoderGraph(model, WIDTH, 128)
    write_graph(graph, tmp_path / "decoder.onnx", WIDTH, 128)
    sizes = [(5, (96, WIDTH))]
    assert largest_difference(graph, tmp_path / "decoder.onnx", sizes) <= TOLERANCE


def test_a_graph_that_differs_from_pytorch_is_refused(run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_graph, "largest_difference", lambda *_: 0.5)
    graph = DecoderGraph(load_model(run_folder / "run"), 64, 128)
    with pytest.raises(UserError, match=r"differs from PyTorch by 0\.5"):
        write_graph(graph, tmp_path / "decoder.onnx", 64, 128)


@pytest.mark.slow
def test_documented_shapes_of_a_file_are_true(run_folder, tmp_path):
    """As docs/export.md says: any B, H a multiple of 16 up to 120 rounded up, one W."""
    model = load_model(run_folder / "run")
    graph, path = EncoderGraph(model), tmp_path / "encoder.onnx"
    write_graph(graph, path, 64, 120)
    sizes = [(batch, (rows, 64)) for batch in (1, 2, 7) for rows in (16, 48, 112, 128)]
    assert largest_difference(graph, path, sizes) <= TOLERANCE
    session = onnx_graph.open_session(path)
    declared = {given.name: (given.type, given.shape) for given in session.get_inputs()}
    kind, shape = declared["images"]
    assert kind == "tensor(float)"
    assert shape[1] == 1
    assert shape[3] == 64
    assert not any(isinstance(shape[place], int) for place in (0, 2))
    assert declared["heights"][0] == "tensor(int64)"
    good = onnx_graph.graph_inputs(graph, onnx_graph.example_inputs(model, 2, (32, 64)))
    good = {name: value.numpy() for name, value in good.items()}
    images = good["images"]
    refused = {
        "width": images[..., :48],
        "channels": images.repeat(3, axis=1),
        "bytes": (images * 255).astype(np.uint8),
        "dimensions": images[0],
    }
    for name, wrong in refused.items():
        with pytest.raises(InvalidArgument, match="INVALID_ARGUMENT") as refusal:
            session.run(None, good | {"images": wrong})
        assert "Got: 48 Expected: 64" in str(refusal.value) or name != "width"
