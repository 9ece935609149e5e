#!/usr/bin/env bash
# Installs the locked environment into .venv, and is the one place that decides which build of torch
# is taken: a CPU wheel found in $TORCH_WHEELS (default: ../shared/wheels when it exists), else the index's.
# The lock names the index's build; torch's own dependencies differ between the two, so torch is
# installed by version (with what its build needs) and everything else by the lock.
# usage: tools/install.sh [VENV]
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
wheels=${TORCH_WHEELS:-../shared/wheels}
cache=${DEEPSEEKJOB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/deepseekjob}
uv=$(tools/uv.sh)
req=$(mktemp)
trap 'rm -f "$req"' EXIT

"$uv" export --quiet --frozen --all-packages --all-extras --group dev --no-emit-workspace \
    --no-hashes --no-annotate --no-emit-package torch | grep -Ev '^(nvidia-|cuda-|triton)' >"$req"
find_links=()
if compgen -G "$wheels/torch-*.whl" >/dev/null; then find_links=(--find-links "$wheels"); fi

mkdir -p "$cache"
[ -x "$venv/bin/python" ] || "$uv" venv --quiet --python 3.11 "$venv"
"$uv" pip install --quiet --python "$venv/bin/python" "${find_links[@]}" -r "$req" "torch==2.13.0" \
    -e operator -e trainer -e client
