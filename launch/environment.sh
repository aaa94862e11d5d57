# shellcheck shell=bash
# Sourced by the other scripts: create and activate a virtual environment with this project.
#
#   use_environment [EXTRA...]
#
# The environment is $VENV, or .venv. The project is installed only if setup.cfg, the extras or the
# folder have changed since the last call.

use_environment() {
    local venv=${VENV:-.venv} extras stamp wanted bin
    extras=$(IFS=,; echo "$*")
    stamp="$venv/installed-for"
    wanted="$PWD [$extras] $(cksum < setup.cfg)"
    if [ ! -x "$venv/bin/python" ]; then
        python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
            echo "error: python3 is older than 3.10; install a newer Python" >&2
            return 2
        }
        python3 -m venv "$venv"
    fi
    # Commands such as accelerate are found on the path.
    bin=$(cd "$venv/bin" && pwd)
    export VIRTUAL_ENV=$venv PATH="$bin:$PATH"
    if ! grep -qxF -- "$wanted" "$stamp" 2>/dev/null; then
        echo "installing into $venv (minutes the first time)"
        # pip compiles all modules. Without that, where PYTHONDONTWRITEBYTECODE is set, every process
        # would compile torch and deepspeed anew, for five seconds.
        python -m pip install -qq --editable ".${extras:+[$extras]}"
        echo "$wanted" >> "$stamp"
    fi
}
