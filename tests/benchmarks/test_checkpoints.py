"""The benchmark of checkpoints compares both ways of saving and loading."""

import pytest
import torch

from benchmarks.checkpoints import WAYS, CountingReader, Meter, results_of
from tests.benchmarks.quick_run import names_of, quick_run
from vaetrain.artifacts.tensor_files import TensorFiles, save_tensors


def test_bytes_that_are_read_are_counted(tmp_path):
    save_tensors(tmp_path / "a", {"b": torch.ones(3, 5)})
    reader = CountingReader(TensorFiles([tmp_path / "a"], {}))
    assert reader.shape("b") == (3, 5)
    assert reader.bytes == 0
    reader.read("b", 2, 4)
    assert reader.bytes == 8
    assert [tensor.shape for tensor in reader.values()] == [(3, 5)]
    assert reader.bytes == 8 + 60


def test_memory_at_the_peak_is_measured():
    meter = Meter()
    meter.start()
    torch.ones(16 << 20)
    torch.ones(1).sum()
    assert meter.stop() >= 0


def test_results_have_both_ways_of_gathering_once():
    memory = [f"memory of a {what}" for what in ("save", "load", "start")]
    keys = ("still", "written", "load", "read", *memory)
    found = {key: [2e6] for key in (*keys, "gather by parameter", "gather by bucket")}
    entries = [entry for way in WAYS for entry in results_of("ddp", way, found)]
    assert len(entries) == 2 * 7 + 2
    (read,) = [e for e in entries if e["unit"] == "MB" and e["name"] == "ddp, slices"]
    assert read["rounds"] == [2.0]


@pytest.mark.slow
def test_quick_run_measures_both_ways(tmp_path):
    record, _ = quick_run("checkpoints", tmp_path, "--engines", "ddp", "fsdp2")
    names = {f"{engine}, {way}" for engine in ("ddp", "fsdp2") for way in WAYS}
    assert names_of(record, "training stands still") == names
    (read,) = [
        each
        for each in record["comparisons"]
        if each["name"] == "fsdp2, slices" and each["group"] == "read by a rank in a load"
    ]
    assert 0.4 < read["median"] < 0.6
    (memory,) = [
        each
        for each in record["comparisons"]
        if each["name"] == "fsdp2, slices" and each["group"] == "memory of a load"
    ]
    assert memory["median"] < 0.6
