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
# Clients of tracking servers, for their tests, apart likewise: with what they import and the lock lacks, 120 MB in seconds.
"$uv" pip install --quiet --python "$venv/bin/python" --target "$venv/trackers" --no-deps --compile-bytecode \
    "wandb==0.31.0" "mlflow-skinny==3.17.0" "platformdirs==4.14.7" "opentelemetry-proto==1.45.2" \
    "opentelemetry-sdk==1.45.2" "opentelemetry-semantic-conventions==0.66b2" "sqlparse==0.6.1" "cachetools==7.3.2" \
    "fastapi==0.165.0" "starlette==1.10.0" "importlib-metadata==9.1.0" "zipp==4.1.2" "databricks-sdk==0.156.0"
# Triton, for the tests of kernels on a CPU, likewise: 690 MB and a quarter of a second. It is the version that torch's CUDA build
# brings along itself. Linux only.
if [ "$(uname -s)" = Linux ]; then
    "$uv" pip install --quiet --python "$venv/bin/python" --target "$venv/triton" --no-deps "triton==3.7.1"
fi
