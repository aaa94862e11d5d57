"""A plain installation, without the repository, trains, evaluates and exports from any folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.support.paths import REPO

PACKAGES = ("shards", "vaetrain", "launch", "benchmarks", "accelerate_configs")
LAUNCH = ("-m", "accelerate.commands.accelerate_cli", "launch")
SETTINGS = (
    "name=installed",
    "data.shards=pages",
    "data.width=64",
    "data.max_height=128",
    "model.latent_dim=16",
    "model.start=random",
    "train.global_batch_size=8",
    "train.max_images=24",
    "tracker=none",
)

pytestmark = pytest.mark.slow


class Installation:
    """A virtual environment with this project installed, and an unrelated folder to work in."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.python, self.folder = python, folder

    def run(self, *arguments: str) -> str:
        """Run Python with arguments in the folder; return its standard output."""
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(
            [str(self.python), *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installation:
    """Build from a copy of the sources, which leaves no build folder in the repository."""
    source = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        shutil.copytree(
            REPO / package, source / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source)
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    # The dependencies are those of the running environment, so nothing is downloaded.
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    install += ["--no-deps", "--no-build-isolation", "--no-index", str(source)]
    subprocess.run(install, check=True, cwd=source, env=_build_environment())
    packages = sysconfig.get_paths(vars={"base": str(environment), "platbase": str(environment)})
    dependencies = sysconfig.get_paths()["purelib"]
    # A folder that a .pth file adds has its own .pth files ignored, and so also the one of an
    # editable installation of this project.
    (Path(packages["purelib"]) / "dependencies.pth").write_text(f"{dependencies}\n")
    return Installation(python, tmp_path_factory.mktemp("elsewhere"))


def _build_environment() -> dict[str, str]:
    """Return an environment in which pip finds setuptools for a build without isolation."""
    return os.environ | {"PYTHONPATH": sysconfig.get_paths()["purelib"]}


def test_an_installation_is_used_from_an_unrelated_folder(installed):
    code = "import vaetrain, shards, launch; print(vaetrain.__file__, shards.__file__)"
    for path in installed.run("-c", code).split():
        assert Path(path).is_relative_to(installed.python.parents[1])
        assert not Path(path).is_relative_to(REPO)

    build = ("-m", "shards.build", "--format", "synthetic", "--count", "24", "--out", "pages")
    installed.run(*build, "--workers", "1", "--val-fraction", "0.3")

    # The trainer starts itself again through the launcher, with the path of the engine file.
    out = installed.run(*LAUNCH, "-m", "vaetrain.train", "--config_file", "ddp", *SETTINGS)
    assert "engine=ddp backend=gloo world_size=2" in out
    run = installed.folder / "runs" / "installed"
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["images"] == 24

    out = installed.run("-m", "vaetrain.evaluate", "runs/installed", "--shards", "pages")
    assert "ssim" in out

    pytest.importorskip("onnxruntime")
    installed.run("-m", "vaetrain.export", "runs/installed", "--onnx", "model.onnx")
    assert (installed.folder / "model.onnx").stat().st_size > 0


def test_data_files_are_installed(installed):
    code = (
        "from vaetrain.config.command import EXPERIMENTS\n"
        "from vaetrain.engines.engine_files import ENGINE_FILES\n"
        "from vaetrain.data.config import SAMPLE_LAYOUTS\n"
        "import launch, pathlib, shards.capturing\n"
        "templates = pathlib.Path(launch.__file__).with_name('templates')\n"
        "capturing = pathlib.Path(shards.capturing.__file__).parent\n"
        "for folder in (EXPERIMENTS, ENGINE_FILES, SAMPLE_LAYOUTS, templates, capturing):\n"
        "    print(*sorted(path.name for path in folder.iterdir() if path.is_file()), sep='|')\n"
    )
    folders = ("launch/experiments", "accelerate_configs", "shards/sample", "launch/templates")
    folders += ("shards/capturing",)
    for line, folder in zip(installed.run("-c", code).splitlines(), folders, strict=True):
        shipped = sorted(path.name for path in (REPO / folder).iterdir() if path.is_file())
        assert line.split("|") == shipped, folder
