#!/usr/bin/env bash
# Prints the path of a uv binary: the one on PATH, else one installed from PyPI into the project's cache.
set -euo pipefail
if command -v uv; then exit 0; fi
home=${DEEPSEEKJOB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/deepseekjob}/uv
if [ ! -x "$home/bin/uv" ]; then
    python3 -m venv "$home" >&2
    "$home/bin/pip" install --quiet "uv==0.13.9" >&2
fi
echo "$home/bin/uv"
