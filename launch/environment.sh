# shellcheck shell=bash
# Sourced by the scripts beside it: a virtual environment with this project in it.
#
#   use_environment [EXTRA...]
#
# Made in $VENV, or .venv; installed into only when setup.cfg or the extras have changed.

use_environment() {
    local venv=${VENV:-.venv} extras stamp wanted bin
    extras=$(IFS=,; echo "$*")
    stamp="$venv/installed-for"
    wanted="$PWD [$extras] $(cksum < setup.cfg)"
    if [ ! -x "$venv/bin/python" ]; then
        python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
            echo "error: python3 is older than 3.10" >&2
            return 2
        }
        python3 -m venv "$venv"
    fi
    # The launcher and its ranks are found by name.
    bin=$(cd "$venv/bin" && pwd)
    export VIRTUAL_ENV=$venv PATH="$bin:$PATH"
    if ! grep -qxF -- "$wanted" "$stamp" 2>/dev/null; then
        echo "installing into $venv (minutes the first time)"
        python -m pip install -qq --editable ".${extras:+[$extras]}"
        echo "$wanted" >> "$stamp"
    fi
}
