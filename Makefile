# make demo        a synthetic archive; indexed, trained on, screened; a report to open
# make test        everything that is checked
# make test-cluster   every job on two machines in one (root; half an hour)
# make test-fast   the tests without Ray, browser, real data and what takes seconds each
# make docs        docs/configuration.md, then the site in build/site
# All install what they need into .venv first.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

# All of Ray stays on this machine, and nothing is reported anywhere.
export RAY_USAGE_STATS_ENABLED := 0
export RAY_USAGE_STATS_REPORT_URL := http://127.0.0.1:9
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER := 0
export RAY_AUTH_MODE := disabled

.PHONY: demo reference test test-cluster test-fast lint docs apt clean

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python configs/demo/run.py

# The bundle that ships with the package, from synthetic patients. Run again, it does what is missing.
REFERENCE := --config configs/reference_cohort.yaml --set
COMPLETE := missing.complete_share=1 missing.ct_only_share=0 missing.no_labs_share=0
reference: $(VENV)/.installed
	$(BIN)/osteo-ray cohort slices $(REFERENCE) seed=4000
	$(BIN)/osteo-ray cohort slices $(REFERENCE) out=runs/reference/heldout seed=4002 persons=1000 $(COMPLETE)
	$(BIN)/osteo-ray train --config configs/reference.yaml
	mkdir -p osteo_ray/model/reference/bundle
	cd runs/reference/run/bundle && cp bundle.json weights.safetensors card.md SHA256SUMS $(CURDIR)/osteo_ray/model/reference/bundle/

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Two processes, a file's tests in one of them; one thread of torch in each, or they wait for one another. Ray's workers
# are as urgent as the tests: at Ray's own niceness of 15 they would starve beside the other process.
test: lint
	OMP_NUM_THREADS=1 RAY_worker_niceness=0 $(BIN)/python -m pytest -n 2 --dist loadfile

test-cluster: $(VENV)/.installed
	OSTEO_RAY_CLUSTER=1 $(BIN)/python -m pytest tests/cluster

test-fast: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not ray and not browser and not real and not slow"

docs: $(VENV)/.installed
	$(BIN)/python -m osteo_ray.commands.reference docs/configuration.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Debian packages that the DICOMweb and web page tests use; those tests skip, with the reason, where they are missing.
# The package's own server is not wanted: tests start one of their own, on loopback.
apt:
	apt-get update -q
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends orthanc orthanc-dicomweb orthanc-gdcm chromium
	-service orthanc stop

clean:
	rm -rf demo
