#!/usr/bin/env bash
# Start the ranks of this machine in a training on several machines. Run the same command on each
# machine, with its own --rank; the machines wait for each other. Data and run directory must be on a
# disk that all machines share.
#
#   launch/multinode.sh --machines 2 --rank 0 --main-address node1 [option...] [trainer arguments]
#
#   --machines N         number of machines                                       ($MACHINES)
#   --rank R             number of this machine, from 0                           ($MACHINE_RANK)
#   --main-address HOST  name or address of machine 0 in the common network       ($MAIN_ADDRESS)
#   --main-port PORT     a free port of machine 0; default 29500                  ($MAIN_PORT)
#   --processes P        ranks per machine; default: its number of GPUs, or 1     ($PROCESSES)
#   --interface NAME     network interface, e.g. ib0; default: any                ($INTERFACE)
#   --engine NAME        engine file, or a name in accelerate_configs/; default ddp  ($ENGINE)
#   --dry-run            print the command instead of running it                  ($DRY_RUN=1)
#
# Environment variables in parentheses have the same meaning. All other arguments are passed to
# vaetrain/train.py, e.g. --experiment base train.epochs=50.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "error: $1" >&2
    exit 2
}

require_number() { # NAME VALUE MINIMUM
    if ! [[ $2 =~ ^[0-9]+$ ]] || (($2 < $3)); then
        fail "--$1: '$2' is not a whole number of at least $3"
    fi
}

machines=${MACHINES:-} rank=${MACHINE_RANK:-} address=${MAIN_ADDRESS:-} port=${MAIN_PORT:-29500}
processes=${PROCESSES:-} interface=${INTERFACE:-} engine=${ENGINE:-ddp} dry_run=false
[ -z "${DRY_RUN:-}" ] || dry_run=true

while [ $# -gt 0 ]; do
    case $1 in
        --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" && exit ;;
        --dry-run) dry_run=true && shift && continue ;;
        --machines | --rank | --main-address | --main-port | --processes | --interface | --engine) ;;
        *) break ;;
    esac
    [ $# -gt 1 ] || fail "$1: needs a value"
    case $1 in
        --machines) machines=$2 ;;
        --rank) rank=$2 ;;
        --main-address) address=$2 ;;
        --main-port) port=$2 ;;
        --processes) processes=$2 ;;
        --interface) interface=$2 ;;
        --engine) engine=$2 ;;
    esac
    shift 2
done

if [ -z "$processes" ]; then
    # One line per GPU; the command fails if there is no driver.
    gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l) || gpus=0
    processes=$((gpus > 0 ? gpus : 1))
fi
require_number machines "$machines" 1
require_number rank "$rank" 0
require_number main-port "$port" 1
require_number processes "$processes" 1
((rank < machines)) || fail "--rank: $rank of $machines machines; machines are numbered from 0"
[ -n "$address" ] || fail "--main-address: missing; give the address of machine 0"
[ -f "$engine" ] || engine="accelerate_configs/$engine.yaml"
[ -f "$engine" ] || fail "--engine: there is no $engine"

command=(
    accelerate launch --config_file "$engine"
    --num_machines "$machines" --num_processes "$((machines * processes))" --machine_rank "$rank"
    --main_process_ip "$address" --main_process_port "$port"
    vaetrain/train.py "$@"
)
if [ -n "$interface" ]; then
    command=(env "GLOO_SOCKET_IFNAME=$interface" "NCCL_SOCKET_IFNAME=$interface" "${command[@]}")
fi
if $dry_run; then
    printf '%q ' "${command[@]}"
    echo
    exit
fi
if ((machines > 1)); then
    echo "machine $rank of $machines: waiting for the other machines at $address:$port" >&2
fi
exec "${command[@]}"
