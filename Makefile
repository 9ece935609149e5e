# The project's only verbs; README and CI call nothing else. Each works from a fresh clone.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export DEEPSEEKJOB_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/deepseekjob
# Without its bytecode, each process that imports torch compiles a thousand modules for itself.
unexport PYTHONDONTWRITEBYTECODE
# mypy goes by the content of files, so one cache serves every clone.
export MYPY_CACHE_DIR ?= $(DEEPSEEKJOB_CACHE)/mypy
VENV := .venv
PY := $(VENV)/bin/python
PYTEST := $(VENV)/bin/pytest
PACKAGES := operator/deepseek_operator trainer/deepseek_trainer client/deepseek_client
STAMP := $(VENV)/.installed

.PHONY: help
help: ## list the verbs
	@grep -hE '^[a-z][a-z0-9-]*:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-18s %s\n", $$1, $$2}'

$(STAMP): requirements.lock pyproject.toml operator/pyproject.toml trainer/pyproject.toml client/pyproject.toml tools/install.sh
	tools/install.sh $(VENV)
	@touch $@

.PHONY: setup
setup: $(STAMP) ## install the locked environment into .venv

.PHONY: lock
lock: ## resolve the dependencies and write the locks
	tools/lock.sh

# ---- the product ------------------------------------------------------------------------------
.PHONY: demo demo-cluster
demo: setup ## train the example without a cluster, lose a worker, resume, leave a report (5 minutes)
	$(VENV)/bin/dsj run examples/demo.yaml --kill-one --report .runs/demo

demo-cluster: setup ## the same on Kubernetes: $$KUBECONFIG, else kind if Docker runs, else the native cluster
	tools/demo-cluster.sh

# ---- a Kubernetes on this machine (root; no Docker, no image registry) ---------------------------
NAME ?= default
NODES ?= 2
.PHONY: images cluster-up cluster-down
images: setup ## build the operator's and the trainer's image; prints their archives
	PYTHONPATH=tools $(PY) -m native.images

cluster-up: setup ## start a two-node Kubernetes with the images, and print its KUBECONFIG (NAME=, NODES=)
	PYTHONPATH=tools $(PY) -m native up --name $(NAME) --nodes $(NODES)

cluster-down: setup ## end it and remove all that it had (NAME=)
	PYTHONPATH=tools $(PY) -m native down --name $(NAME)

# ---- checks -----------------------------------------------------------------------------------
.PHONY: lint types verify generate
lint: setup ## ruff and the import layers
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports --no-cache

types: setup ## mypy, strict
	$(VENV)/bin/mypy $(PACKAGES) tests tools

generate: setup ## write the CRD, the chart's copy of it and docs/api.md from the models
	$(PY) tools/generate.py

verify: setup ## fail when a generated file differs from what would be generated
	$(PY) tools/generate.py --check

# ---- tests ------------------------------------------------------------------------------------
.PHONY: test test-unit test-contract test-chart test-cluster test-training test-ray test-e2e test-demo test-native
# Lanes run side by side: the real nodes of e2e and the API server of the cluster tests mostly wait.
LANES := test-e2e test-training test-cluster lint,types,verify,test-unit,test-contract,test-chart,test-native,test-ray,test-demo
test: setup ## everything, in lanes side by side; what CI runs (KEEP_GOING=1 doesn't end at the first failure)
	@$(PY) tools/stages.py $(if $(KEEP_GOING),--keep-going) $(LANES)

test-unit: setup ## pure logic, seconds
	$(PYTEST) tests/unit

test-contract: setup ## operator and trainer agree; generated files and examples are valid
	$(PYTEST) tests/contract

test-chart: setup ## the Helm chart: lint, schema, rendered objects
	$(PYTEST) tests/chart

test-cluster: setup ## a real kube-apiserver, no kubelet
	$(PYTEST) tests/cluster

RAY := $(wildcard tests/training/test_ray_*.py)
test-training: setup ## 1 to 4 torch processes over gloo
	$(PYTEST) tests/training $(RAY:%=--ignore=%)

test-ray: setup ## a real Ray of three nodes: what it prepares, whatever of it is killed
	$(PYTEST) $(RAY)

test-demo: setup ## make demo, and look at what it leaves
	$(PYTEST) tests/e2e/test_demo.py

test-e2e: setup ## helm install and real pods on two nodes
	$(PYTEST) tests/e2e --ignore=tests/e2e/test_demo.py --ignore=tests/e2e/test_native_cluster.py --ignore=tests/e2e/test_native_images.py

test-native: setup ## the native cluster itself: crashes, power cuts, side by side, nothing left behind
	$(PYTEST) tests/e2e/test_native_cluster.py tests/e2e/test_native_images.py

.PHONY: soak
soak: setup ## an hour of jobs under several hundred random faults, their data exactly once; five minutes of it are in test-cluster
	DEEPSEEKJOB_SOAK_S=3600 DEEPSEEKJOB_SOAK_FAULTS=10000 $(PYTEST) -s tests/cluster/test_soak.py

# ---- numbers ----------------------------------------------------------------------------------
.PHONY: bench bench-control-plane bench-recovery bench-data bench-checkpoint bench-train
bench: bench-control-plane bench-recovery bench-data bench-checkpoint bench-train ## all of the bench-… verbs; each ends with `ahead …` or `behind in …`

bench-control-plane: setup ## pods per second, latency, writes and CPU beside a bare client, on a real kube-apiserver
	PYTHONPATH=tests:tools $(PY) tests/perf/bench_control_plane.py

bench-recovery: setup ## seconds from a fault to the next step, beside torchrun's own rendezvous, over gloo
	PYTHONPATH=tests:tools $(PY) tests/perf/bench_recovery.py

bench-data: setup ## data: preparing, order, loading and resuming, beside datasets, torchdata and others on the same data
	PYTHONPATH=tests:tools $(PY) tests/perf/bench_data.py

bench-checkpoint: setup ## saving and loading: blocked seconds, bytes a second, restarts, beside torch.save and the disk
	PYTHONPATH=tests:tools $(PY) tests/perf/bench_checkpoint.py

bench-train: setup ## the training loop beside the bare one, Accelerate and Trainer; memory of recomputation; compile beside eager
	@# apart from all else: transformers imports accelerate wherever it is, a third of a second in each process
	$$(tools/uv.sh) pip install --quiet --python $(PY) --target $(VENV)/bench --no-deps accelerate==1.15.0 psutil==7.2.2
	PYTHONPATH=tests:tools:$(VENV)/bench $(PY) tests/perf/bench_train.py
