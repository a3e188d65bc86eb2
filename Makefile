# `make demo` and `make test` do all their set-up themselves; both share .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Also that the native kernels are of today's sources.
STAMP := $(VENV)/.built
NATIVE := $(wildcard kernels/native/src/*.* kernels/native/src/*/*) kernels/native/build.py
# Processes share cores: OpenMP's default busy waiting would take them from each other.
export OMP_WAIT_POLICY := passive

.PHONY: demo test lint parity dashboards dashboards-test bench fuzz soak gpu-check train clients-test helm-golden image-test clean

demo: $(STAMP)
	$(BIN)/expertmesh demo

test: lint
	$(BIN)/python -m pytest tests/unit tests/dashboards tests/helm -m "not e2e" -n 2 --dist worksteal
	$(BIN)/python -m pytest tests/ray tests/e2e tests/page tests/helm/test_serve_config.py -p no:randomly

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Every family through the cluster over 1, 2 and 3 shards; `make test` takes three of them once each.
parity: $(STAMP)
	EXPERTMESH_ALL_SHARDS=1 $(BIN)/python -m pytest tests/e2e/test_families.py -p no:randomly

# The dashboards' JSON, anew from deploy/grafana/*.py.
dashboards: $(STAMP)
	$(BIN)/python -m deploy.grafana.generate

# OpenAI's clients, evaluation harnesses and load generators against a real server, in an environment of their own.
clients-test: $(STAMP) .venv-clients/.installed
	$(BIN)/python -m pytest tests/clients -p no:randomly

.venv-clients/.installed: tests/clients/requirements.txt
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/pip install --quiet --disable-pip-version-check -r tests/clients/requirements.txt
	touch $@

# Every panel, rule and alert against a real Prometheus that scrapes a real cluster: some minutes, so not in `make test`.
dashboards-test: $(STAMP)
	$(BIN)/python -m pytest tests/dashboards -p no:randomly -rP

# Every figure of native speed, with the machine to itself: about an hour. ARGS are flags, such as
# ARGS="--rows decode,layer --llama-bench PATH --against FILE".
bench: $(STAMP)
	$(BIN)/python -m tests.benchmarks.bench_native $(ARGS)

# A million mutated inputs to all readers of untrusted bytes, in minutes; half of them by atheris where it is installed.
# ARGS are flags, such as ARGS="--seed 7 --target call" or ARGS="--seed 7 --case call:123".
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz $(ARGS)

# Shards and routers killed and held still for twenty minutes under load: memory, descriptors, latency must stay flat.
# ARGS are flags, such as ARGS="--minutes 5 --seed 7".
soak: $(STAMP)
	$(BIN)/python -m tests.benchmarks.soak $(ARGS)

# Kernels against float64, speeds and a served model on one NVIDIA GPU: at most eight minutes. It needs no Ray: without
# .venv it runs in any Python that has torch and Triton.
gpu-check:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m tests.benchmarks.gpu_check

# The bundled model, made anew from the standard library's own text.
train: $(STAMP)
	$(BIN)/python deploy/training/train.py --out cluster/bundled

# What is made of other files: copies inside the chart, its README's table, and the renders that tests compare.
helm-golden: $(STAMP)
	$(BIN)/python -m tests.helm.generators.sync
	$(BIN)/python -m tests.helm.generators.config_schema
	$(BIN)/python -m tests.helm.generators.values_table
	$(BIN)/python -m tests.helm.generators.golden

# The image, built and run for real; needs root, buildah and mmdebstrap, and about eight minutes: both flavors.
image-test: $(STAMP)
	$(BIN)/python -m pytest tests/helm/containers/test_image.py -p no:randomly

$(INSTALLED): pyproject.toml deploy/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c deploy/constraints.txt -e ".[test]"
	touch $(INSTALLED)

$(STAMP): $(INSTALLED) $(NATIVE)
	$(BIN)/python -m kernels.native.build --if-possible
	touch $(STAMP)

clean:
	rm -rf kernels/native/*.so $(VENV) .venv-clients .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
