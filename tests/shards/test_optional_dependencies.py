"""Optional dependencies: a missing one is refused with its install command."""

import pytest

from shards.errors import UserError
from shards.optional_dependencies import require


def test_a_missing_extra_is_named_with_the_command_that_installs_it():
    require("json", "cloud", "s3://bucket")
    with pytest.raises(UserError, match=r"s3://x needs no_such_module; install it with: pip inst"):
        require("no_such_module", "cloud", "s3://x")
