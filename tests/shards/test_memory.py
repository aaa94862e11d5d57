"""Memory that the machine and a container's limit leave."""

import pytest

from shards import memory

KB = "MemTotal: 9000 kB\nMemAvailable:  5000 kB\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"meminfo": KB}, 5000 * 1024),
        ({"meminfo": KB, "memory.max": "max\n", "memory.current": "7\n"}, 5000 * 1024),
        ({"meminfo": KB, "memory.max": "900\n", "memory.current": "700\n"}, 200),
        ({"meminfo": "MemAvailable: much\n", "memory.max": "9\n", "memory.current": "7\n"}, 2),
        ({}, None),
    ],
)
def test_the_smallest_rest_counts(tmp_path, monkeypatch, files, expected):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.free_memory() == expected
