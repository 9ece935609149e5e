#!/usr/bin/env bash
# Installs the locked environment into .venv, and is the one place that decides which build of torch
# is taken: a CPU wheel found in $TORCH_WHEELS (default: ../shared/wheels when it exists), else the index's.
# The locks leave torch out for that reason: the two builds have different dependencies.
# usage: tools/install.sh [VENV]
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
wheels=${TORCH_WHEELS:-../shared/wheels}
uv=$(tools/uv.sh)

find_links=()
if compgen -G "$wheels/torch-*.whl" >/dev/null; then find_links=(--find-links "$wheels"); fi

[ -x "$venv/bin/python" ] || "$uv" venv --quiet --python 3.11 "$venv"
"$uv" pip install --quiet --python "$venv/bin/python" "${find_links[@]}" -r requirements.lock "torch==2.13.0" \
    -e operator -e trainer -e client
# fp8, for its test, apart from all else: transformers imports torchao wherever it is, a second in each process.
"$uv" pip install --quiet --python "$venv/bin/python" --target "$venv/fp8" --no-deps --compile-bytecode "torchao==0.18.0"
