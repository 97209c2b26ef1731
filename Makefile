# One virtual environment for everything that runs on one machine; images take one lock each.
SHELL := /bin/bash
VENV ?= .venv
PY := $(VENV)/bin/python
LOCKS := $(foreach e,airflow data torch tensorflow rollout dev,-r requirements/$(e).lock)

export WHEELS BASE BASE_DIGEST VARIANT PREFIX
.DEFAULT_GOAL := help
.PHONY: help setup setup-prometheus demo down test test-unit test-integration test-cluster cluster-test cluster-chart cluster-release test-images test-gpu images trials test-slow mutations ledger-mutations faults kills chaos fault-matrix check format locks

help:  ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

# torch comes first and through pip: its CPU wheel must not be replaced by the registry's CUDA build.
$(VENV)/.ready: pyproject.toml $(wildcard requirements/*.lock)
	test -x $(PY) || python3 -m venv $(VENV)
	$(PY) -m pip install -q $$(grep '^torch==' requirements/torch.lock) uv
	VIRTUAL_ENV=$(abspath $(VENV)) $(VENV)/bin/uv pip install -q $(LOCKS)
	VIRTUAL_ENV=$(abspath $(VENV)) $(VENV)/bin/uv pip install -q --no-deps -e .
	touch $@

# Something may have been removed or replaced by hand since: then everything is installed again.
setup: $(VENV)/.ready  ## make the virtual environment, or mend it
	@$(PY) -m tasks.cli.installed || { rm $(VENV)/.ready && $(MAKE) $(VENV)/.ready && $(PY) -m tasks.cli.installed; }

setup-prometheus:  ## Debian's prometheus and promtool, for the tests of metrics and alerts (root)
	@{ command -v promtool && command -v prometheus; } >/dev/null || { \
	  [ "$$(id -u)" = 0 ] || { echo "expected root to install Debian's prometheus, found uid $$(id -u); the tests that need it skip"; exit 0; }; \
	  apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus >/dev/null; }

demo: setup  ## the whole loop: data, gates, training, compression, canary, promotion
	$(VENV)/bin/headrace demo

down: setup  ## stop all that demo left running
	$(VENV)/bin/headrace down

# Tests that only compute share the cores; those with servers, users and clocks run one after another.
JOBS ?= 2
SPREAD := -n $(JOBS) --dist loadfile
SHORT := not cluster and not images and not gpu and not slow and not trial
COMPUTING := $(addprefix tests/integration/,bundling kills ranks stores rollout/test_picture_release.py)

test: setup test-unit  ## unit and integration tests (real servers on loopback)
	$(PY) -m pytest -q -m "$(SHORT)" --ignore tests/unit $(PYTEST_ARGS)

test-unit: setup  ## unit tests only
	$(PY) -m pytest -q $(SPREAD) -m "$(SHORT)" tests/unit $(PYTEST_ARGS)

test-cluster: setup  ## tests that need KUBECONFIG
	$(PY) -m pytest -q -m "cluster and not slow" $(PYTEST_ARGS); code=$$?; [ $$code -eq 5 ] || exit $$code

# What CI shows of pods: our whole column of the fault matrix, pools, groups, the chart and a release against it (short forms).
# torch's two ranks want `make images IMAGES=torch` first, the chart IMAGES="rollout tensorflow", the release all; skipped without.
KIT := $(firstword $(wildcard $(HEADRACE_K8S_KIT) shared/k8s ../shared/k8s))
cluster-test: setup  ## the same; without KUBECONFIG on the test cluster beside the checkout, up and down again
	@if [ -z "$$KUBECONFIG" ] && [ -n "$(KIT)" ]; then \
	  trap '$(KIT)/down' EXIT; started=$$($(KIT)/up) || exit 1; export "$$started"; \
	fi; $(MAKE) test-cluster

cluster-chart: setup  ## the chart installed on KUBECONFIG's cluster: kills, upgrade, rollback under 5,000 requests each; after `make images`
	HEADRACE_CHART=long $(PY) -m pytest -q -s tests/cluster/test_chart.py $(PYTEST_ARGS)

cluster-release: setup  ## the release DAG with a pod for every stage, on KUBECONFIG's cluster, and against the chart; after `make images`
	HEADRACE_CHART=long $(PY) -m pytest -q -s tests/cluster/test_release_in_pods.py tests/cluster/test_chart_release.py $(PYTEST_ARGS)

fault-matrix: setup  ## every fault, sync and deferrable, stock and ours, on KUBECONFIG's cluster: docs/fault-matrix.md
	$(PY) -m tests.cluster.stock .fault-matrix-stock.json
	HEADRACE_MATRIX_STOCK=.fault-matrix-stock.json HEADRACE_MATRIX_TABLE=docs/fault-matrix.md \
	  $(PY) -m pytest -q tests/cluster/test_fault_matrix.py $(PYTEST_ARGS)

trials: setup  ## what takes minutes and CI runs too: planted faults, kills, whole flows, short forms
	$(PY) -m pytest -q $(SPREAD) -m trial $(COMPUTING) $(PYTEST_ARGS)
	$(PY) -m pytest -q -m trial $(addprefix --ignore ,$(COMPUTING)) $(PYTEST_ARGS)

test-slow: setup  ## what takes many minutes: the stack killed in the middle, Airflow standalone, large files
	$(PY) -m pytest -q -m "slow and not cluster and not images and not gpu and not trial" --ignore tests/faults $(PYTEST_ARGS)

faults: setup  ## planted faults, long form: 2,000 requests a serving fault, 200 resamples
	HEADRACE_FAULTS=long $(PY) -m pytest -q -m trial tests/faults $(PYTEST_ARGS)
	HEADRACE_FAULTS=crowd $(PY) -m pytest -q tests/faults/test_evaluation_verdicts.py $(PYTEST_ARGS)

kills: setup  ## 20 kills of every stage: do all end with the undisturbed digests?
	$(PY) -W ignore -m tests.integration.kills.long_form

chaos: setup  ## candidates that harm under load, the keeper and the renewer killed: does any user pay? CHAOS_FOLDER=dir goes on
	$(PY) -W ignore -m tests.integration.chaos.long_form

mutations: setup  ## 1,000 random changes of a release: does verify name each? does gc keep all?
	HEADRACE_MUTATIONS=1000 $(PY) -m pytest -q -s tests/integration/proof/test_mutations.py $(PYTEST_ARGS)
	HEADRACE_GC_EXAMPLES=60 $(PY) -m pytest -q tests/unit/cli/test_collect.py tests/integration/stores/test_gc.py $(PYTEST_ARGS)

ledger-mutations: setup  ## 1,000 random changes of a ledger's objects: is each found and named?
	HEADRACE_LEDGER_MUTATIONS=1000 $(PY) -m pytest -q -s tests/unit/rollout/test_ledger_mutations.py $(PYTEST_ARGS)

# IMAGES="data torch" builds some; WHEELS=dir has torch's CPU wheel; BASE=, BASE_DIGEST= pin the base.
images: setup  ## container images, by buildah: all, or IMAGES="data torch"; VARIANT=cuda for torch-cuda
	PYTHON=$(PY) bash images/build.sh $(IMAGES)

test-images: setup  ## tests of the images that `make images` built (root)
	$(PY) -m pytest -q -m images $(PYTEST_ARGS)

test-gpu: setup  ## tests that need a CUDA device, with the Python in PY=: that environment's torch must see it
	$(PY) -m pytest -q -m gpu $(PYTEST_ARGS)

check: setup  ## format, lint, types, import rules, chart
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy tasks plugins/headrace_airflow dags helm/lint.py helm/readme.py
	PYTHONPATH=.:plugins $(VENV)/bin/lint-imports
	$(VENV)/bin/hadolint images/*/Dockerfile
	$(PY) helm/lint.py
	$(PY) helm/readme.py --check

format: setup  ## format and mend what can be mended
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

EXTRAS := airflow data torch tensorflow rollout dev
locks: setup  ## resolve all images together, then one lock each
	$(VENV)/bin/uv pip compile -q pyproject.toml $(foreach e,$(EXTRAS),--extra $(e)) --no-annotate --no-header -o requirements/constraints.txt
	for e in $(EXTRAS); do $(VENV)/bin/uv pip compile -q pyproject.toml --extra $$e --no-annotate --no-header -c requirements/constraints.txt -o requirements/$$e.lock || exit 1; done
	$(VENV)/bin/uv pip compile -q --no-config requirements/torch.lock --no-annotate --no-header -c requirements/constraints.txt -o requirements/torch-cuda.lock
