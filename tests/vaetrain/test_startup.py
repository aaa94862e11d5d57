"""The engine that is asked for and the one that runs, read before torch is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from vaetrain.settings import ConfigError
from vaetrain.startup import Launch, read_engine_file, running_launch

REPO = Path(__file__).resolve().parents[2]
CONFIGS = REPO / "accelerate_configs"


def test_the_engine_files_say_what_they_are():
    assert read_engine_file(CONFIGS / "single.yaml") == Launch("single", 1, "no")
    assert read_engine_file(CONFIGS / "ddp.yaml") == Launch("ddp", 2, "no")


def test_a_bare_no_is_a_precision(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("distributed_type: NO\nnum_processes: 1\nmixed_precision: no\n")
    with pytest.raises(ConfigError, match="distributed_type is False"):
        read_engine_file(path)
    path.write_text("distributed_type: 'NO'\nnum_processes: 1\nmixed_precision: no\n")
    assert read_engine_file(path).precision == "no"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "there is no such engine file"),
        ("[1, 2]", "is no engine file: not a mapping"),
        ("a: [", "is not YAML"),
        ("distributed_type: MULTI_CPU\nnum_processes: 2", "distributed_type is 'MULTI_CPU'"),
        ("distributed_type: MULTI_GPU", "num_processes is None"),
        ("distributed_type: MULTI_GPU\nnum_processes: 1", "num_processes is 1, which is no ddp"),
        ("distributed_type: 'NO'\nnum_processes: 2", "num_processes is 2, which is no single"),
    ],
)
def test_an_engine_file_that_would_not_do_what_it_says_is_refused(tmp_path, text, says):
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=says) as refusal:
        read_engine_file(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    ("environment", "launch"),
    [
        ({}, Launch("single", 1, "no")),
        ({"WORLD_SIZE": "2", "ACCELERATE_MIXED_PRECISION": "bf16"}, Launch("ddp", 2, "bf16")),
        ({"WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true"}, Launch("fsdp", 2, "no")),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, Launch("deepspeed", 1, "no")),
    ],
)
def test_the_launchers_variables_say_what_runs(environment, launch):
    assert running_launch(environment) == launch


def test_importing_the_package_is_quick_and_brings_no_torch():
    code = "import sys, vaetrain, vaetrain.startup; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, timeout=3, check=False)
    assert done.returncode == 0
