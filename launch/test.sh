#!/usr/bin/env bash
# Install the project and run the tests; --all includes the slow ones. Other arguments are passed to
# pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
use_environment test sweep track export
arguments=()
for argument in "$@"; do
    if [ "$argument" = --all ]; then arguments+=(-m "slow or not slow"); else arguments+=("$argument"); fi
done
# Two files at a time: short trainings spend most of their time starting one process. The tests of a
# file run in one process, as they share trainings.
exec python -m pytest --numprocesses 2 --dist loadfile "${arguments[@]}"
