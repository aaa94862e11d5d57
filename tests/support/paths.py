"""Folders of the repository that tests read."""

from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
SAMPLE = REPO / "shards" / "sample"
EXPERIMENTS = sorted((REPO / "launch" / "experiments").glob("*.yaml"))
