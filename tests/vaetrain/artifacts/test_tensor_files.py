"""Tensors are read back from whole files and from the slices of any number of files."""

import pytest
import torch
from safetensors import SafetensorError

from vaetrain.artifacts.checkpoint import READ_ERRORS
from vaetrain.artifacts.tensor_files import (
    Entry,
    TensorFiles,
    check_slices,
    decode_layouts,
    encode_layouts,
    save_tensors,
)
from vaetrain.engines.slices import even_bounds, read_in_shares

TENSORS = {
    "matrix": torch.arange(35.0).view(5, 7),
    "kernel": torch.arange(24.0).view(2, 3, 2, 2) - 9,
    "scalar": torch.tensor(4.0),
    "small": torch.tensor([1.5]),
}


def written(folder, files: int) -> TensorFiles:
    """Write the tensors as slices of a number of files; scalars are not cut."""
    layout, parts = {}, [{} for _ in range(files)]
    for name, tensor in TENSORS.items():
        if tensor.dim() == 0:
            parts[0][name] = tensor
            continue
        bounds = tuple(even_bounds(tensor.numel(), files))
        layout[name] = Entry(tuple(tensor.shape), bounds)
        for part, start, stop in zip(parts, bounds, bounds[1:], strict=False):
            if start < stop:
                part[name] = tensor.flatten()[start:stop].clone()
    paths = [folder / f"{number}.safetensors" for number in range(files)]
    for number, (path, part) in enumerate(zip(paths, parts, strict=True)):
        save_tensors(path, part)
        check_slices(path, number, layout)
    return TensorFiles(paths, layout)


@pytest.fixture(params=[0, 1, 3, 40], ids=lambda files: f"{files or 'whole'} files")
def files(request, tmp_path):
    if request.param:
        return written(tmp_path, request.param)
    save_tensors(tmp_path / "whole.safetensors", TENSORS)
    return TensorFiles([tmp_path / "whole.safetensors"], {})


def test_whole_tensors_are_read(files):
    assert set(files) == set(TENSORS)
    assert len(files) == len(TENSORS)
    for name, tensor in files.items():
        assert files.shape(name) == tuple(TENSORS[name].shape)
        assert torch.equal(tensor, TENSORS[name])
    with pytest.raises(KeyError):
        files["other"]


def test_any_range_is_read(files):
    for name, tensor in TENSORS.items():
        flat = tensor.flatten()
        for start in range(len(flat) + 1):
            for stop in range(start, len(flat) + 1):
                assert files.read(name, start, stop).tolist() == flat[start:stop].tolist()


def test_tensors_read_in_shares_are_whole(files):
    found = dict(read_in_shares(files, 0, 1, torch.device("cpu")))
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


def test_layouts_are_json_and_read_back():
    layout = {"a": Entry((2, 3), (0, 4, 6)), "b": Entry((6,), (0, 4, 6)), "c": Entry((), (0, 1, 1))}
    tree = encode_layouts({"weights": layout, "adversary": {}})
    assert len(tree["bounds"]) == 2
    assert decode_layouts(tree, 2) == {"weights": layout, "adversary": {}}


@pytest.mark.parametrize(
    ("shape", "bounds"),
    [((2,), [0, 1, 1]), ((2,), [1, 1, 2]), ((2,), [0, 2]), ((3,), [0, 4, 3]), ((2,), []), (2, [0])],
)
def test_layouts_with_gaps_are_refused(shape, bounds):
    tree = {"bounds": [bounds], "parts": {"weights": {"a": [shape, 0]}}}
    with pytest.raises(READ_ERRORS):
        decode_layouts(tree, 2)


def test_a_file_without_its_slice_is_refused(tmp_path):
    save_tensors(tmp_path / "a", {"b": torch.ones(3)})
    layout = {"b": Entry((5,), (0, 3, 5))}
    check_slices(tmp_path / "a", 0, layout)
    with pytest.raises(ValueError, match="b has another size"):
        check_slices(tmp_path / "a", 1, layout)
    with pytest.raises(SafetensorError):
        check_slices(tmp_path / "a", 0, {"c": Entry((1,), (0, 1, 1))})
