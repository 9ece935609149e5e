#!/usr/bin/env bash
# Resolves the workspace and writes the committed locks: requirements.lock (everything a developer has) and one
# for each image. torch is left out of them: tools/install.sh and the Containerfiles install it by version, so
# that a CPU build can be taken. So are the extra fp8, as transformers imports torchao wherever it is, a second of a
# processor in each process, and the clients of tracking servers, which only their users need.
# usage: tools/lock.sh
set -euo pipefail
cd "$(dirname "$0")/.."
uv=$(tools/uv.sh)
"$uv" lock --quiet

export_lock() { # file, arguments that choose the packages
    local file=$1
    shift
    "$uv" export --quiet --frozen "$@" --no-emit-workspace --no-emit-package torch --no-annotate --no-header |
        awk '/^(nvidia-|cuda-|triton)/ { skip = 1; next } /^[a-z]/ { skip = 0 } !skip' >"$file"
}
left_out=(--no-extra fp8 --no-extra wandb --no-extra mlflow)
export_lock requirements.lock --all-packages --all-extras "${left_out[@]}" --group dev
export_lock operator/requirements.lock --package deepseek-operator --no-dev
export_lock trainer/requirements.lock --package deepseek-trainer --all-extras "${left_out[@]}" --no-dev
