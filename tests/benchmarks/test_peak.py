"""A quick run of the peak benchmark."""

from __future__ import annotations

import pytest

from benchmarks.support import device_peak
from tests.benchmarks.quick_run import names_of, quick_run


@pytest.mark.slow
def test_quick_run_measures_every_shape(tmp_path):
    record, _ = quick_run("peak", tmp_path, "--precision", "bf16")
    shapes = names_of(record, device_peak.COMPUTE)
    assert len(shapes) == len(device_peak.MATMULS) + len(device_peak.CONVOLUTIONS)
    assert names_of(record, device_peak.MEMORY) == {device_peak.COPY, device_peak.TRIAD}
    assert record["settings"]["precision"] == "bf16"
