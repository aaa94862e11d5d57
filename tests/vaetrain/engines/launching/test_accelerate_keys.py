"""Every key and variable of the installed Accelerate, against the table and the engines.

The lists are taken from Accelerate's own configuration classes, questionnaire, launcher and source,
so that a key or a variable that a later version adds fails here until it has a row.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import accelerate
import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, SageMakerConfig
from accelerate.commands.launch import launch_command_parser
from accelerate.utils.dataclasses import DistributedType, SageMakerDistributedType

from tests.support.paths import REPO
from vaetrain.engines.engine_files import read_engine_file
from vaetrain.engines.launching.accelerate_keys import (
    ACCEPTED,
    BY_KEY,
    BY_VARIABLE,
    MAPPED,
    OTHER_TYPES,
    REFUSED,
    ROWS,
    SECTIONS,
    SWITCHES,
    TYPE_OF_SECTION,
    Row,
    full_key,
)
from vaetrain.engines.launching.launch_settings import hide_variables
from vaetrain.engines.spec import LAUNCH_KINDS, Launch, running_launch
from vaetrain.settings import ConfigError

SOURCE = Path(accelerate.__file__).parent
COMMANDS = ("commands/launch.py", "utils/launch.py")
QUESTIONS = ("commands/config/cluster.py", "commands/config/sagemaker.py")
OLD_KEYS = {("", "fp16"), ("", "dynamo_backend")}  # BaseConfig.process_config converts them
GROUPS = {
    "DeepSpeed Arguments": "deepspeed_config",
    "FSDP Arguments": "fsdp_config",
    "Megatron-LM Arguments": "megatron_lm_config",
    "FP8 Arguments": "fp8_config",
    "MPI Arguments": "mpirun_config",
    "ParallelismConfig Arguments": "parallelism_config",
}
OURS = re.compile(r"(ACCELERATE|FSDP|PARALLELISM_CONFIG|MEGATRON_LM)_[A-Z0-9_]*[A-Z0-9]")
# Variables that the launcher sets for other programs: devices of other makers, threads, addresses
# and options of libraries. CUDA_VISIBLE_DEVICES, OMP_NUM_THREADS and MASTER_* are read elsewhere.
NOT_OURS = {
    *("ZE_AFFINITY_MASK", "MLU_VISIBLE_DEVICES", "SDAA_VISIBLE_DEVICES", "MUSA_VISIBLE_DEVICES"),
    *("ASCEND_RT_VISIBLE_DEVICES", "HABANA_VISIBLE_MODULES", "NEURON_RT_VISIBLE_CORES"),
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MASTER_ADDR", "MASTER_PORT", "PYTHONPATH"),
    *("KMP_AFFINITY", "KMP_BLOCKTIME", "NCCL_P2P_DISABLE", "NCCL_IB_DISABLE"),
    *("XLA_DOWNCAST_BF16", "XLA_USE_BF16"),
}
TWO = {
    **{"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"},
    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
}


def texts(node: ast.expr, names: dict[str, str]) -> str | None:
    """Return the text of an expression of constants, known names and `+`; else None."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = texts(node.left, names), texts(node.right, names)
        return None if left is None or right is None else left + right
    return None


def assigned(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (dictionary, key) of every `dictionary[key] = ...` in a file, in order."""
    names: dict[str, str] = {}
    nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Assign)]
    for node in sorted(nodes, key=lambda node: node.lineno):
        target = node.targets[0]
        value = texts(node.value, names)
        if isinstance(target, ast.Name) and value is not None:
            names[target.id] = value
        if isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
            key = texts(target.slice, names)
            if key is not None:
                yield target.value.id, key


def keys_of_accelerate() -> set[tuple[str, str]]:
    """Return section and key of everything that an engine file of Accelerate can hold."""
    found = set(OLD_KEYS)
    for config in (ClusterConfig, SageMakerConfig):
        found |= {("", each.name) for each in dataclasses.fields(config)}
    for file in QUESTIONS:
        for section, key in assigned(SOURCE / file):
            if section.endswith("_config"):
                found.add((section, full_key(section, key)))
    for group in launch_command_parser()._action_groups:
        section = GROUPS.get(group.title)
        if section is not None:
            found |= {(section, action.dest) for action in group._group_actions}
    dynamo = [a.dest for a in launch_command_parser()._actions if a.dest.startswith("dynamo_")]
    found |= {("dynamo_config", key) for key in dynamo}
    return {(section, key) for section, key in found if key not in SECTIONS}


def variables_of_accelerate() -> set[str]:
    """Return the variables that Accelerate's launcher sets, and those that its source names."""
    found = set()
    for file in COMMANDS:
        found |= {key for name, key in assigned(SOURCE / file) if "env" in name}
    for path in SOURCE.rglob("*.py"):
        if "test_utils" in path.parts:
            continue
        tree = ast.parse(path.read_text())
        constants = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant))
        found |= {text for text in constants if isinstance(text, str) and OURS.fullmatch(text)}
    return {name for name in found if name.isupper()}


def test_all_keys_of_accelerate_are_in_the_table():
    found = keys_of_accelerate()
    assert len(found) > 120
    assert found - BY_KEY.keys() == set()
    sections = {each.name for each in dataclasses.fields(ClusterConfig) if "dict" in str(each.type)}
    assert sections == set(SECTIONS)


def test_all_variables_of_accelerate_are_in_the_table():
    found = variables_of_accelerate()
    assert len(found) > 60
    assert found - BY_VARIABLE.keys() - NOT_OURS == set()


def test_a_new_key_and_a_new_variable_would_be_found(tmp_path):
    path = tmp_path / "cluster.py"
    path.write_text(
        'prefix = "dynamo_"\ndynamo_config[prefix + "new"] = 1\nfsdp_config["newer"] = 2\n'
        'current_env["ACCELERATE_" + "NEWEST"] = "3"\n'
    )
    assert list(assigned(path)) == [
        ("dynamo_config", "dynamo_new"),
        ("fsdp_config", "newer"),
        ("current_env", "ACCELERATE_NEWEST"),
    ]
    assert ("dynamo_config", "dynamo_new") not in BY_KEY


def test_all_distributed_types_of_accelerate_are_known():
    members = {each.value for kind in (DistributedType, SageMakerDistributedType) for each in kind}
    assert members - LAUNCH_KINDS.keys() - {"MULTI_CPU"} - OTHER_TYPES.keys() == set()


def test_rows_are_well_formed():
    assert len(BY_KEY) == sum(len(row.keys) for row in ROWS)
    assert len(BY_VARIABLE) == sum(len(row.variables) for row in ROWS)
    for row in ROWS:
        assert row.handling in (ACCEPTED, MAPPED, REFUSED)
        assert not (row.keys and row.variables) or len(row.keys) == len(row.variables)
        assert all(text == text.lower() for text in row.neutral)


# The matrix: each key, written into an otherwise plain file.


def read(tmp_path: Path, section: str, key: str, value: object) -> Launch:
    """Return the launch of a file of two ranks that holds one value."""
    kind = TYPE_OF_SECTION.get(section, "FSDP" if section == "parallelism_config" else "MULTI_GPU")
    tree: dict = {"distributed_type": kind, "num_processes": 2}
    tree |= {"DEEPSPEED": {"deepspeed_config": {"zero_stage": 2}}}.get(kind, {})
    tree |= {"FSDP": {"fsdp_config": {"fsdp_version": 2}}}.get(kind, {})
    if section:
        tree.setdefault(section, {})[key] = value
    else:
        tree[key] = value
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tree))
    return read_engine_file(path)


def rows(handling: str) -> list:
    pairs = [(*pair, row) for pair, row in BY_KEY.items() if row.handling == handling]
    return [pytest.param(*case, id=".".join(filter(None, case[:2]))) for case in pairs]


def written(text: str) -> list[object]:
    """Return the values that YAML may hold for a text of the table."""
    special = {"none": [None], "false": [False, "False"], "true": [True], "0": [0], "1": [1]}
    return [*special.get(text, []), text, text.upper()]


@pytest.mark.parametrize(("section", "key", "row"), rows(ACCEPTED))
def test_an_accepted_key_changes_nothing(tmp_path, section, key, row: Row):
    plain = read(tmp_path, section, key, None)
    for value in (True, False, 3, "text", *row.neutral):
        launch = read(tmp_path, section, key, value)
        assert launch == plain
        is_noted = row.noted and str(value).lower() not in row.neutral
        assert [key in note for note in launch.notes] == [True] * is_noted


@pytest.mark.parametrize(("section", "key", "row"), rows(REFUSED))
def test_a_refused_key_is_named_with_what_to_write(tmp_path, section, key, row: Row):
    plain = read(tmp_path, section, key, None)
    for text in row.neutral:
        for value in written(text):
            assert read(tmp_path, section, key, value) == plain
    where = ".".join(filter(None, (section, key)))
    for value in (7, "Other"):
        with pytest.raises(ConfigError) as refusal:
            read(tmp_path, section, key, value)
        assert str(refusal.value).startswith(f"{tmp_path}/mine.yaml: {where} is {value!r}; ")
        assert row.text in str(refusal.value)


# Each mapped key with a value, and what it makes of the launch: attribute and value, or an error.
EXAMPLES = {
    "distributed_type": [("MULTI_CPU", "visible_gpus", ""), ("NO", None, "single needs 1")],
    "num_processes": [(3, "world_size", 3), (0, None, "num_processes is 0")],
    "num_machines": [(2, "machines", 2), ("two", None, "num_machines is 'two'")],
    "machine_rank": [(0, "machines", 1), (1, None, "machine_rank is 1, but must be less than")],
    "main_process_port": [(29555, "port", 29555), ("x", None, "main_process_port is 'x'")],
    "main_process_ip": [("127.0.0.1", "machines", 1), ("node1", None, "num_machines is 1")],
    "mixed_precision": [("bf16", "precision", "bf16"), ("fp8", None, "mixed_precision is 'fp8'")],
    "fp16": [(True, "precision", "fp16"), ("half", None, "fp16 is 'half'")],
    "use_cpu": [(True, "visible_gpus", ""), ("maybe", None, "use_cpu is 'maybe'")],
    "gpu_ids": [("1,3", "visible_gpus", "1,3"), (2, "visible_gpus", "2")],
    "zero_stage": [(3, "engine", "zero3"), (0, "engine", "ddp"), (4, None, "zero_stage=4")],
    "offload_optimizer_device": [
        ("cpu", "engine", "zero2_offload"),
        ("nvme", None, "offload_optimizer_device=nvme"),
    ],
    "offload_param_device": [("none", "engine", "zero2"), ("cpu", None, "param_device=cpu")],
    "gradient_clipping": [("auto", "clip_norm", None), ("none", "clip_norm", None)],
    "deepspeed_multinode_launcher": [("standard", "engine", "zero2"), ("pdsh", "engine", "zero2")],
    "fsdp_version": [(2, "engine", "fsdp2"), (1, None, "fsdp_version=1")],
    "fsdp_reshard_after_forward": [
        (False, "options", (("fsdp_reshard_after_forward", "false"),)),
        ("FULL_SHARD", None, "write true or false"),
    ],
    "fsdp_auto_wrap_policy": [
        ("NO_WRAP", "options", (("fsdp_min_num_params", str(2**62)),)),
        ("TRANSFORMER_BASED_WRAP", None, "write SIZE_BASED_WRAP"),
    ],
    "fsdp_min_num_params": [
        (500, "options", (("fsdp_min_num_params", "500"),)),
        ("1e8", None, "write a whole number"),
    ],
    "fsdp_offload_params": [
        (True, "engine", "fsdp2_offload"),
        ("no", "engine", "fsdp2"),
        ("maybe", None, "fsdp_offload_params=maybe"),
    ],
    "fsdp_sharding_strategy": [
        ("HYBRID_SHARD", "engine", "fsdp2_hybrid"),
        (4, "engine", "fsdp2_hybrid"),
        ("FULL_SHARD", "engine", "fsdp2"),
        ("NO_SHARD", None, "fsdp_sharding_strategy=no_shard"),
    ],
    "parallelism_config_dp_shard_size": [(2, "world_size", 2), (3, None, "write 2, or remove")],
    "parallelism_config_dp_replicate_size": [
        (1, "engine", "fsdp2"),
        (3, None, "must be the number of ranks, 2"),
    ],
}


@pytest.mark.parametrize(("section", "key", "row"), rows(MAPPED))
def test_a_mapped_key_selects_the_launch(tmp_path, section, key, row: Row):
    for value, attribute, expected in EXAMPLES[key]:
        if attribute is None:
            with pytest.raises(ConfigError, match=re.escape(expected)):
                read(tmp_path, section, key, value)
        elif attribute == "options":
            assert set(expected) <= set(read(tmp_path, section, key, value).options)
        else:
            assert getattr(read(tmp_path, section, key, value), attribute) == expected


def test_every_mapped_key_has_an_example():
    assert EXAMPLES.keys() == {key for (_, key), row in BY_KEY.items() if row.handling == MAPPED}


def test_a_section_of_another_kind_of_launch_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    plain = "distributed_type: MULTI_GPU\nnum_processes: 2\n"
    for text in ("deepspeed_config: {}", "fsdp_config: {fsdp_offload_params: false}"):
        path.write_text(plain + text)
        assert read_engine_file(path) == Launch("ddp", 2, "no")
    for text in ("deepspeed_config: {zero_stage: 3}", "fsdp_config: {version: 2}"):
        path.write_text(plain + text)
        with pytest.raises(ConfigError, match=r"is read only with distributed_type: (DEEP|FSDP)"):
            read_engine_file(path)


@pytest.mark.parametrize("text", ["nothing: 1", "fsdp_config: {nothing: 1}"])
def test_an_unknown_key_is_refused(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(f"distributed_type: MULTI_GPU\nnum_processes: 2\n{text}\n")
    with pytest.raises(ConfigError, match="nothing: is no known key of an engine file"):
        read_engine_file(path)


# The variables.


def environment_of(row: Row) -> dict[str, str]:
    """Return the environment of a launch that passes a row's section."""
    switch = SWITCHES.get(row.section)
    switches = {} if switch in (None, "ACCELERATE_USE_MEGATRON_LM") else {switch: "true"}
    deepspeed = {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"} if "DEEPSPEED" in str(switch) else {}
    fsdp = {"FSDP_VERSION": "2"} if "FSDP" in str(switch) else {}
    return {**TWO, **switches, **deepspeed, **fsdp}


@pytest.mark.parametrize("name", [n for n, row in BY_VARIABLE.items() if row.handling != MAPPED])
def test_a_variable_is_handled_as_its_key(name):
    row = BY_VARIABLE[name]
    environment = environment_of(row)
    plain = running_launch(environment)
    for text in ("True", "Other"):
        if row.handling == ACCEPTED or row.section == "megatron_lm_config":
            assert running_launch(environment | {name: text}) == plain
        elif text.lower() not in row.neutral:
            with pytest.raises(ConfigError, match=f"^{name} is '{text}'; it ") as refusal:
                running_launch(environment | {name: text})
            assert row.text in str(refusal.value)
    for text in row.neutral:
        assert running_launch(environment | {name: text.upper()}) == plain


def test_settings_without_their_switch_and_unknown_ones_are_told():
    with pytest.raises(ConfigError, match=r"^ACCELERATE_DEEPSPEED_ZERO_STAGE is '3', but ACC"):
        running_launch({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"})
    launch = running_launch({"ACCELERATE_NEWEST": "5"})
    assert launch == Launch("single", 1, "no")
    (note,) = launch.notes
    assert "ACCELERATE_NEWEST is '5'; it has no effect" in note


def test_accelerate_obeys_no_variable_by_itself():
    given = dict.fromkeys((*BY_VARIABLE, "ACCELERATE_NEWEST", "HOME"), "1")
    hide_variables(given)
    left = {name for name in given if name != "HOME" and BY_VARIABLE[name].handling != ACCEPTED}
    assert left == {"ACCELERATE_MIXED_PRECISION"}
    assert "HOME" in given


# The page of documentation.


def table() -> list[str]:
    """Return the lines of the tables in docs/engines.md."""
    lines = ["| section | key | handling | allowed values, effect |", "|---|---|---|---|"]
    others = ["| variable | handling | effect |", "|---|---|---|"]
    for row in ROWS:
        text = row.text
        if row.handling == REFUSED:
            text = f"only {', '.join(f'`{each}`' for each in row.neutral if each)}; {text}"
        if row.noted:
            text += "; said in a note"
        keys = ", ".join(f"`{key}`" for key in row.keys or row.variables)
        if row.keys:
            section = f"`{row.section}`" if row.section else "top level"
            lines.append(f"| {section} | {keys} | {row.handling} | {text} |")
        else:
            others.append(f"| {keys} | {row.handling} | {text} |")
    return [*lines, "", *others]


def test_the_page_shows_the_table():
    page = (REPO / "docs" / "engines.md").read_text()
    expected = "\n".join(table())
    assert expected in page, f"docs/engines.md must contain:\n{expected}"
