#!/usr/bin/env bash
# Start this machine's share of a training on several machines. Type the same on each of them, but
# for --rank; they wait for each other. Data and run directory lie on a disk that all of them see.
#
#   launch/multinode.sh --machines 2 --rank 0 --main-address node1 [option...] [trainer's arguments]
#
#   --machines N         how many there are                              ($MACHINES)
#   --rank R             which of them this is, from 0                   ($MACHINE_RANK)
#   --main-address HOST  machine 0, as the others can reach it           ($MAIN_ADDRESS)
#   --main-port PORT     a free port of it; 29500                        ($MAIN_PORT)
#   --processes P        ranks on each machine; its number of GPUs, or 1 ($PROCESSES)
#   --interface NAME     network interface to use, e.g. ib0; any         ($INTERFACE)
#   --engine NAME        file in accelerate_configs/ without .yaml; ddp  ($ENGINE)
#   --dry-run            print the command instead of running it
#
# What comes after these goes to vaetrain/train.py, e.g. --experiment base train.epochs=50.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "error: $1" >&2
    exit 2
}

number() { # NAME VALUE LEAST
    if ! [[ $2 =~ ^[0-9]+$ ]] || (($2 < $3)); then
        fail "--$1: '$2' is not a whole number of at least $3"
    fi
}

machines=${MACHINES:-} rank=${MACHINE_RANK:-} address=${MAIN_ADDRESS:-} port=${MAIN_PORT:-29500}
processes=${PROCESSES:-} interface=${INTERFACE:-} engine=${ENGINE:-ddp} dry_run=false

while [ $# -gt 0 ]; do
    case $1 in
        --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" && exit ;;
        --dry-run) dry_run=true && shift && continue ;;
        --machines | --rank | --main-address | --main-port | --processes | --interface | --engine) ;;
        *) break ;;
    esac
    [ $# -gt 1 ] || fail "$1: its value is missing"
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
    # One line a GPU; none where there is no driver.
    gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l) || gpus=0
    processes=$((gpus > 0 ? gpus : 1))
fi
number machines "$machines" 1
number rank "$rank" 0
number main-port "$port" 1
number processes "$processes" 1
((rank < machines)) || fail "--rank: $rank of $machines machines; they are counted from 0"
[ -n "$address" ] || fail "--main-address: say where machine 0 is"
[ -f "accelerate_configs/$engine.yaml" ] || fail "--engine: there is no accelerate_configs/$engine.yaml"

command=(
    accelerate launch --config_file "accelerate_configs/$engine.yaml"
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
exec "${command[@]}"
