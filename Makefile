# Everything is installed into .venv/. `make help` lists the targets.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test lint e2e fuzz bench fleet lab pictures manifests install install-default uninstall proto wheel zipapp packages dist clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: .venv/.all ## run the program on a simulated host and print what it writes
	@$(BIN)/sriov-textfile demo

test: .venv/.test ## run the tests; no root, no hardware
	@echo "=> running the tests"
	$(BIN)/pytest

lint: .venv/.lint ## check style, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

e2e: .venv/.e2e ## run the program with Prometheus and node_exporter from Debian's packages
	$(BIN)/pytest -n 0 e2e

CASES ?= 20000
fuzz: .venv/.e2e ## run the program on CASES simulated machines with all kinds of damage (default 20000)
	$(BIN)/python -m e2e.fuzz --cases=$(CASES)

bench: .venv/.bench ## measure runs and collections, and compare with other ways; PEER=binary of the Go exporter
	$(BIN)/python -m bench $(if $(PEER),--peer='$(PEER)')

fleet: .venv/.bench ## measure Prometheus, rules and dashboard on 1,000 simulated nodes; FLAGS=--help
	$(BIN)/python -m bench.fleet $(FLAGS)

lab: .venv/.test .venv/.dist ## run the program on virtual machines with SR-IOV NICs, or in PARTS of them; needs root and Debian
	$(BIN)/python -m lab $(PARTS)

pictures: .venv/.bench .venv/.e2e ## draw the pictures of the documentation
	$(BIN)/python -m tools.screenshot
	$(BIN)/python -m e2e.pictures

PREFIX ?= /usr/local
install: .venv/.base ## install the program, units, man page and completions below PREFIX (DESTDIR=)
	$(BIN)/python -m tools.install install --prefix=$(PREFIX) --destdir=$(DESTDIR)

install-default: .venv/.base ## install /etc/default/sriov-textfile, unless it exists
	$(BIN)/python -m tools.install default --destdir=$(DESTDIR)

uninstall: .venv/.base ## remove what install has installed below PREFIX
	$(BIN)/python -m tools.install uninstall --prefix=$(PREFIX) --destdir=$(DESTDIR)

manifests: .venv/.test ## generate the PrometheusRules and the sidecar's patch; RUNBOOK_URL=... sets the runbook's address
	$(BIN)/python -m tools.manifests $(if $(RUNBOOK_URL),'$(RUNBOOK_URL)')

proto: .venv/.test ## generate the messages of the kubelet's API from their .proto
	$(BIN)/python -m tools.proto

wheel: .venv/.test ## build dist/*.whl
	$(BIN)/python -m build --wheel

zipapp: .venv/.base ## build dist/sriov-textfile.pyz, the program in one file
	$(BIN)/python -m tools.zipapp

packages: .venv/.dist ## build dist/*.deb and dist/*.rpm
	$(BIN)/python -m tools.linux_packages

dist: .venv/.dist ## build everything that a release has into dist/
	$(BIN)/python -m tools.dist

clean: ## remove what the targets created in the checkout
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/.base: pyproject.toml
	PYTHON="$(PYTHON)" tools/venv .
	@touch $@

# An extra of pyproject.toml has the name of its stamp.
.venv/.all .venv/.test .venv/.lint .venv/.e2e .venv/.bench .venv/.dist: pyproject.toml
	PYTHON="$(PYTHON)" tools/venv '.[$(patsubst .%,%,$(notdir $@))]'
	@touch .venv/.base $@
