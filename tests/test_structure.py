"""The shape of the source tree: no import cycles, small folders and files, plain docstrings."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.support.paths import REPO

PACKAGES = ("shards", "vaetrain", "launch", "benchmarks")
COMMANDS = {"train", "evaluate", "embed", "search", "interpolate", "sample", "export"}
COMMANDS |= {"build", "inspect", "verify", "capture", "cluster", "atlas", "reconstruct"}
COMMANDS |= {"doctor", "plan", "sweep", "soak", "report"}
OLD_CONTRACTS = {"vaetrain/augment", "shards/inspect.py"}
MOST_MODULES, MOST_LINES = 20, 400
# Modules without a test file of their own, by the test that covers them: parts that only work
# together, modules that need several processes, and commands that are tested alike.
COVERS = {
    "tests/shards/test_build.py": ("shards/building/*.py",),
    "tests/shards/capturing/test_visit.py": (
        *("shards/capturing/browser.py", "shards/capturing/memory.py"),
        *("shards/capturing/session.py", "shards/capturing/traffic.py"),
    ),
    "tests/shards/test_hostile.py": ("shards/format/tar.py",),
    "tests/shards/format/test_index.py": ("shards/open.py",),
    "tests/shards/format/test_layout.py": ("shards/format/box_tree.py", "shards/format/schemas.py"),
    "tests/shards/reading/test_datasets.py": (
        *("shards/reading/batch.py", "shards/reading/collator.py"),
        "shards/reading/shard_files.py",
    ),
    "tests/shards/reading/test_reader_processes.py": (
        *("shards/reading/messages.py", "shards/reading/reader_body.py"),
    ),
    "tests/shards/reading/test_draw.py": ("shards/reading/draw_rows.py",),
    "tests/shards/remote/test_remote.py": ("shards/remote/*.py",),
    "tests/shards/synthetic/test_archetypes.py": ("shards/synthetic/*.py",),
    "tests/vaetrain/evaluation/test_sample_metrics.py": ("vaetrain/evaluation/page_measurer.py",),
    "tests/vaetrain/test_commands.py": (
        *("vaetrain/embed.py", "vaetrain/interpolate.py"),
        *("vaetrain/fit_prior.py", "vaetrain/sample.py", "vaetrain/search.py"),
    ),
    "tests/vaetrain/layouts/test_boxes.py": (
        *("vaetrain/layouts/rectangles.py", "vaetrain/layouts/shared_edges.py"),
    ),
    "tests/vaetrain/layouts/test_page_files.py": ("vaetrain/layouts/svg.py",),
    "tests/vaetrain/test_startup.py": (
        *("vaetrain/engines/engine_files.py", "vaetrain/engines/start.py"),
    ),
    "tests/vaetrain/engines/launching/test_accelerate_keys.py": (
        "vaetrain/engines/launching/launch_settings.py",
    ),
    "tests/vaetrain/config/test_experiment.py": ("vaetrain/settings.py",),
    "tests/vaetrain/engines/test_heartbeat.py": ("benchmarks/support/simulated_ranks.py",),
    "tests/vaetrain/engines/test_model_options.py": ("vaetrain/model/full_precision.py",),
    "tests/vaetrain/gan/test_losses.py": ("vaetrain/gan/regularizers.py",),
    "tests/vaetrain/training/test_prior_fit.py": ("vaetrain/prior/config.py",),
    "tests/vaetrain/trackers/test_trackers.py": (
        *("vaetrain/trackers/*.py", "vaetrain/inference/mlflow_model.py"),
    ),
    "tests/vaetrain/atlas_site/test_build.py": ("vaetrain/atlas.py", "vaetrain/atlas_site/*.py"),
    "tests/distributed/test_engines_without_trainer.py": (
        "vaetrain/engines/base.py",
        *("vaetrain/engines/torch_engine.py", "vaetrain/engines/zero.py"),
    ),
    "tests/distributed/test_equality.py": ("vaetrain/training/pca_start.py",),
    "tests/distributed/test_launch.py": (
        *("vaetrain/cli.py", "vaetrain/train.py", "vaetrain/config/command.py"),
    ),
    "tests/distributed/test_resume.py": (
        *("vaetrain/engines/stop_request.py", "vaetrain/training/build.py"),
        *("vaetrain/training/between_steps.py", "vaetrain/training/state.py"),
        "vaetrain/training/trainer.py",
    ),
    "tests/distributed/test_slow_link.py": ("benchmarks/support/machines/namespaces.py",),
    "tests/launch/test_doctor.py": ("launch/diagnosis/*.py",),
    "tests/launch/test_plan.py": ("launch/planning/*.py",),
    "tests/launch/test_soak.py": ("launch/small_run.py",),
    "tests/launch/test_report.py": ("launch/charts.py",),
    "tests/launch/test_sweep.py": ("launch/mlflow_study.py", "launch/training_process.py"),
    "tests/benchmarks/test_atlas.py": ("benchmarks/support/made_atlas.py",),
    "tests/benchmarks/support/simulation/test_world.py": (
        *(
            "benchmarks/support/simulation/object_store.py",
            "benchmarks/support/simulation/ranks.py",
        ),
    ),
    "tests/benchmarks/support/test_traces.py": ("benchmarks/support/trainer_tasks.py",),
}
RIDDLES = re.compile(r"(What|Who|Whose|How|That|None|Nothing|Nobody|Whether it)\b")


def source_files(*folders: str) -> list[Path]:
    """Return the Python files below these folders of the repository, sorted."""
    return sorted(path for folder in folders for path in (REPO / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    """Return the dotted name of a module; of a package for its `__init__.py`."""
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in source_files(*PACKAGES)}


def imported(path: Path) -> Iterator[str]:
    """Yield the repository's modules that a file imports anywhere, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in full]
        else:
            continue
        yield from (name for name in names if name in MODULES)


def cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one node (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph[node]:
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def module_graph() -> dict[str, set[str]]:
    """Return which module imports which."""
    return {name: set(imported(path)) - {name} for name, path in MODULES.items()}


def package_of(module: str) -> str:
    """Return the folder a module lies in; modules directly in a top-level folder stand alone."""
    parts = module.split(".")
    is_package = MODULES[module].name == "__init__.py"
    if len(parts) == 2 and not is_package:
        return module
    return module if is_package else ".".join(parts[:-1])


def package_graph() -> dict[str, set[str]]:
    """Return which package imports which, see `package_of`."""
    graph: dict[str, set[str]] = {package_of(module): set() for module in MODULES}
    for module, targets in module_graph().items():
        graph[package_of(module)] |= {package_of(target) for target in targets}
    return {package: targets - {package} for package, targets in graph.items()}


def test_a_cycle_is_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}
    assert cycles(graph) == [["a", "b", "c"]]
    assert cycles({"a": {"b"}, "b": set()}) == []


def test_lazy_and_type_only_imports_count(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "if TYPE_CHECKING:\n    from shards.format import index\n"
        "def f():\n    from shards.errors import UserError\n"
    )
    assert set(imported(path)) == {"shards.format.index", "shards.errors"}


def test_modules_do_not_import_each_other_in_a_circle():
    assert cycles(module_graph()) == []


def test_packages_do_not_import_each_other_in_a_circle():
    assert cycles(package_graph()) == []


def test_shards_know_nothing_of_the_trainer():
    upward = {"vaetrain", "launch", "benchmarks"}
    targets = {t for m, ts in module_graph().items() if m.startswith("shards") for t in ts}
    assert not {target for target in targets if target.split(".")[0] in upward}


def test_folders_hold_a_handful_of_modules():
    counts = Counter(path.parent for path in MODULES.values() if path.name != "__init__.py")
    assert {str(folder): n for folder, n in counts.items() if n > MOST_MODULES} == {}


@pytest.mark.parametrize("path", source_files(*PACKAGES, "tests"), ids=module_name)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES


def test_packages_hide_neither_commands_nor_the_standard_library():
    folders = {path.parent for path in MODULES.values()} - {REPO / name for name in PACKAGES}
    names = {str(folder.relative_to(REPO)): folder.name for folder in folders}
    taken = COMMANDS | set(sys.stdlib_module_names)
    assert {n for n, last in names.items() if last in taken} - OLD_CONTRACTS == set()
    # `python vaetrain/train.py` puts vaetrain/ first on sys.path before it removes it again.
    top = {path.stem for path in (REPO / "vaetrain").glob("*.py")} - {"__init__"}
    assert top & set(sys.stdlib_module_names) == set()


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of every docstring of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text


def test_docstrings_say_what_a_thing_is_or_does():
    wrong = [
        f"{path.relative_to(REPO)}:{line}: {text.splitlines()[0]}"
        for path in source_files(*PACKAGES, "tests")
        for line, text in docstrings(path)
        if RIDDLES.match(text)
    ]
    assert wrong == []


def raises_again(handler: ast.ExceptHandler) -> bool:
    """Return whether a handler only cleans up and passes the exception on."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_errors_are_not_caught_blindly():
    blind = [
        f"{path.relative_to(REPO)}:{node.lineno}"
        for path in source_files(*PACKAGES)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        and not raises_again(node)
    ]
    assert blind == []


def has_functions(path: Path) -> bool:
    """Return whether a file defines a function or method."""
    return any(isinstance(node, ast.FunctionDef) for node in ast.walk(ast.parse(path.read_text())))


def modules_without_test() -> list[str]:
    """Return the modules with functions that have no test file at the mirrored path."""
    missing = []
    for path in MODULES.values():
        relative = path.relative_to(REPO)
        test = REPO / "tests" / relative.parent / f"test_{path.stem.strip('_')}.py"
        if path.name != "__init__.py" and has_functions(path) and not test.exists():
            missing.append(relative.as_posix())
    return missing


def test_every_module_has_a_test_file_or_a_test_that_covers_it():
    patterns = [pattern for modules in COVERS.values() for pattern in modules]
    missing = modules_without_test()
    assert [m for m in missing if not any(fnmatch(m, pattern) for pattern in patterns)] == []
    assert [p for p in patterns if not any(fnmatch(m, p) for m in missing)] == []  # outdated
    assert [test for test in COVERS if not (REPO / test).exists()] == []
