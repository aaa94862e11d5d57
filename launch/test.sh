#!/usr/bin/env bash
# Set up and run the tests; --all includes the slow ones. Other arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
use_environment test sweep track export
arguments=()
for argument in "$@"; do
    if [ "$argument" = --all ]; then arguments+=(-m "slow or not slow"); else arguments+=("$argument"); fi
done
# Two files at a time: most of a training of two steps is one process that starts. A file's tests
# stay together, for they share trainings.
exec python -m pytest --numprocesses 2 --dist loadfile "${arguments[@]}"
