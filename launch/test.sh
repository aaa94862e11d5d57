#!/usr/bin/env bash
# Install the project and run the tests; --all includes the slow ones and, as root on Debian, installs
# chromium for some of them; --gpu runs only those that need a GPU, one after the other. --oldest installs the oldest allowed dependencies (launch/oldest.txt)
# into .venv-oldest, and runs the tests with them. Other arguments are passed to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
if [ "${1:-}" = --oldest ]; then
    shift
    export VENV=${VENV:-.venv}-oldest PIP_CONSTRAINT=$PWD/launch/oldest.txt
fi
use_environment test sweep track export capture atlas
python -c 'import importlib.metadata as m; m.version("embedding-atlas")' 2> /dev/null ||
    python -m pip install -qq --no-deps -r launch/atlas.txt
install_chromium() {
    # For the tests of shards.capture and of the atlas, which are skipped without it.
    if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null && ! command -v chromium > /dev/null; then
        echo "installing chromium"
        { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes \
            --no-install-recommends chromium; } > /dev/null 2>&1 ||
            echo "chromium cannot be installed; the tests that need it are skipped" >&2
    fi
}
arguments=()
for argument in "$@"; do
    case $argument in
        --all)
            install_chromium
            arguments+=(-m "slow or not slow")
            ;;
        --gpu) arguments+=(-m gpu --numprocesses 0) ;;
        *) arguments+=("$argument") ;;
    esac
done
# Two files at a time: short trainings spend most of their time starting one process. The tests of a
# file run in one process, as they share trainings. In their own order: xdist would start with the files of
# most tests, and end with one process at the few and long ones of the distributed trainings.
exec python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "${arguments[@]}"
