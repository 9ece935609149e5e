#!/usr/bin/env bash
# Trains examples/chitchat-pretrain.yaml on Kubernetes, loses a worker after the first checkpoint, resumes, finishes.
#
# Where: $KUBECONFIG when it is set (then $OPERATOR_IMAGE and $TRAINER_IMAGE name images that its nodes can pull, and
# a claim deepseek-checkpoints must exist or be provisioned); else a kind cluster when Docker and kind are there;
# else the native cluster (root). The cluster stays for a look; the last lines say how to remove it.
# usage: tools/demo-cluster.sh        environment: STEPS (default 300) shortens or lengthens the run
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
export PYTHONPATH=$PWD/tools
job=chitchat-pretrain
claim=deepseek-checkpoints
steps=${STEPS:-300}
cache=${DEEPSEEKJOB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/deepseekjob}
shared='' remove='' watcher=''
trap '[ -z "$watcher" ] || kill "$watcher" 2>/dev/null || true' EXIT

say() { printf '\n==> %s\n' "$*"; }
docker_runs() { command -v docker >/dev/null && docker info >/dev/null 2>&1; }

use_given() {
    say "Kubernetes of KUBECONFIG=$KUBECONFIG"
    operator_image=${OPERATOR_IMAGE:-} trainer_image=${TRAINER_IMAGE:-}
}

use_kind() {
    say "kind cluster deepseekjob"
    shared=/var/lib/deepseekjob-shared
    mkdir -p "$shared" || { echo "error: $shared is missing; create it: sudo mkdir -m 777 $shared" >&2; exit 1; }
    kind get clusters | grep -qx deepseekjob || kind create cluster --name deepseekjob --config kind-config.yaml
    mkdir -p "$cache"
    KUBECONFIG=$cache/kind.kubeconfig
    kind get kubeconfig --name deepseekjob >"$KUBECONFIG"
    for archive in $("$python" -m native.images operator trainer); do
        kind load image-archive --name deepseekjob "$archive"
    done
    remove="kind delete cluster --name deepseekjob"
}

use_native() {
    say "native cluster (no Docker that runs, or no kind)"
    "$python" -m native up
    KUBECONFIG=$("$python" -m native kubeconfig)
    shared=$(dirname "$(dirname "$KUBECONFIG")")/volumes
    remove="make cluster-down"
}

operator_image=localhost/deepseek-operator:dev trainer_image=localhost/deepseek-trainer:dev
if [ -n "${KUBECONFIG:-}" ]; then use_given; elif docker_runs && command -v kind >/dev/null; then use_kind; else use_native; fi
export KUBECONFIG
mapfile -t tools < <("$python" -m native.binaries kubectl helm)
kubectl=${tools[0]} helm=${tools[1]}

say "the operator, by Helm"
image_values=()
[ -z "$operator_image" ] || image_values=(--set "image.repository=${operator_image%:*}" --set "image.tag=${operator_image##*:}")
"$helm" upgrade --install deepseek-operator charts/deepseek-operator --namespace deepseek-system --create-namespace \
    --wait --timeout 120s "${image_values[@]}"
if [ -n "$shared" ]; then # the tag stays the same when the image changes: a kept cluster would keep the old operator
    "$kubectl" --namespace deepseek-system rollout restart deployment/deepseek-operator
    "$kubectl" --namespace deepseek-system rollout status deployment/deepseek-operator --timeout 120s
fi

if [ -n "$shared" ]; then
    say "a shared volume: $shared/demo"
    "$python" -m native.demo volume "$claim" "$shared/demo" | "$kubectl" apply -f -
else
    "$kubectl" get pvc "$claim" >/dev/null 2>&1 || "$kubectl" apply -f examples/storage.yaml
fi

say "kubectl apply -f examples/$job.yaml ($steps steps)"
"$kubectl" delete dsj "$job" --ignore-not-found
"$python" -m native.demo job "examples/$job.yaml" --steps "$steps" --image "$trainer_image" | "$kubectl" apply -f -

"$kubectl" get dsj "$job" --watch &
watcher=$!
field() { "$kubectl" get dsj "$job" --output "jsonpath={.status.$1}"; }
ended() { case $(field state) in Succeeded | Failed) true ;; *) false ;; esac }
until [ -n "$(field checkpoint.step)" ] || ended; do sleep 1; done
if ! ended; then
    victim=$("$kubectl" get pods -l "training.deepseekjob.dev/job-name=$job,training.deepseekjob.dev/slot=1" --output name)
    say "checkpoint at step $(field checkpoint.step): now $victim is killed"
    "$kubectl" delete "$victim" --force --grace-period=0
fi
until ended; do sleep 1; done
kill "$watcher"
watcher=''

say "$(field state)"
"$kubectl" get dsj "$job" --output wide
[ -z "$remove" ] || echo "The cluster is still there: export KUBECONFIG=$KUBECONFIG; remove it with: $remove"
[ "$(field state)" = Succeeded ]
