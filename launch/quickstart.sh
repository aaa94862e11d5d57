#!/usr/bin/env bash
# Install the project, build the shards of the built-in sample, and train on all GPUs, or on two CPU
# processes.
# Arguments are settings of the trainer, e.g. train.epochs=5. A second call resumes the training.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
# shellcheck disable=SC2119 # no extras
use_environment
[ -e data/sample ] || python -m shards.build shards/sample --out data/sample
exec accelerate launch --config_file accelerate_configs/ddp.yaml vaetrain/train.py "$@"
