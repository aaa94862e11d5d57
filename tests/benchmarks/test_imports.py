"""Imports between the benchmarks: support imports no command, and no command another one."""

from __future__ import annotations

import pytest

from tests.test_structure import MODULES, module_graph

COMMANDS = {name for name in MODULES if name.startswith("benchmarks.") and name.count(".") == 1} - {
    "benchmarks.support"
}


@pytest.mark.parametrize("module", sorted(name for name in MODULES if "benchmarks" in name))
def test_no_module_imports_a_command(module):
    assert module_graph()[module] & COMMANDS == set()
