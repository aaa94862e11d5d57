"""Cores that affinity and cgroup quotas allow."""

import pytest

from shards import cores


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/", {}, 8),
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/", {"cpu.max": "350000 100000"}, 3),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/job/step", {"job/cpu.max": "200000 100000", "job/step/cpu.max": "max 100000"}, 2),
        (
            "3:cpu,cpuacct:/job\n0::/",
            {
                "cpu,cpuacct/job/cpu.cfs_quota_us": "400000",
                "cpu,cpuacct/job/cpu.cfs_period_us": "100000",
                "cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            4,
        ),
        ("3:memory:/job\n0::/", {"memory/job/cpu.max": "100000 100000"}, 8),
    ],
)
def test_the_smallest_limit_counts(tmp_path, monkeypatch, membership, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    (tmp_path / "membership").write_text(f"{membership}\n")
    monkeypatch.setattr(cores, "CGROUPS", tmp_path)
    monkeypatch.setattr(cores, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda process: set(range(8)))
    assert cores.count_cores() == expected


def test_affinity_counts_without_cgroups(tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "MEMBERSHIP", tmp_path / "nothing")
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda process: {3, 5})
    assert cores.count_cores() == 2
