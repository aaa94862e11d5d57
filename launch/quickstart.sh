#!/usr/bin/env bash
# Set up, build the built-in sample's shards, train on two processes, say where to look.
# Arguments are settings for the trainer, e.g. train.epochs=5. Cheap when run again.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
# shellcheck disable=SC2119 # no extras
use_environment
[ -e data/sample ] || python -m shards.build shards/sample --out data/sample
exec accelerate launch --config_file accelerate_configs/ddp.yaml vaetrain/train.py "$@"
