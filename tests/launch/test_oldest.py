"""Oldest allowed dependencies, which `./launch/test.sh --oldest` installs."""

import configparser
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def test_the_constraints_are_the_lower_bounds_of_setup_cfg():
    settings = configparser.ConfigParser()
    settings.read(REPO / "setup.cfg")
    required = settings["options"]["install_requires"].split()
    lines = (REPO / "launch" / "oldest.txt").read_text().splitlines()
    constraints = [line for line in lines if line and not line.startswith("#")]
    assert constraints == [requirement.replace(">=", "==") for requirement in required]


def test_every_dependency_has_a_lower_bound():
    settings = configparser.ConfigParser()
    settings.read(REPO / "setup.cfg")
    groups = [settings["options"]["install_requires"], *settings["options.extras_require"].values()]
    assert all(requirement.count(">=") == 1 for group in groups for requirement in group.split())
