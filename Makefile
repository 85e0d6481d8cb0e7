# Everything is installed into .venv/. `make help` lists the targets.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test lint e2e fuzz bench lab pictures install-systemd proto wheel zipapp clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: .venv/.run ## run the program on a simulated host and print what it writes
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

bench: .venv/.bench ## measure the cost of a run and of a collection, and compare it with other ways
	$(BIN)/python -m bench

lab: .venv/.test ## run the program on a virtual machine with SR-IOV NICs; needs root and Debian
	$(BIN)/python -m lab

pictures: .venv/.bench .venv/.e2e ## draw the pictures of the documentation
	$(BIN)/python -m tools.screenshot
	$(BIN)/python -m e2e.pictures

install-systemd: ## install the systemd units and their files below DESTDIR (empty: this host)
	install -d $(DESTDIR)/etc/systemd/system $(DESTDIR)/etc/default $(DESTDIR)/etc/sysusers.d
	install -m 644 systemd/*.service systemd/*.socket systemd/*.timer $(DESTDIR)/etc/systemd/system
	install -m 644 systemd/sysusers.conf $(DESTDIR)/etc/sysusers.d/sriov-textfile.conf
	test -e $(DESTDIR)/etc/default/sriov-textfile || \
	  install -m 644 systemd/sriov-textfile.default $(DESTDIR)/etc/default/sriov-textfile

proto: .venv/.test ## generate the messages of the kubelet's API from their .proto
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. sriov_textfile/kubelet/podresources.proto

wheel: .venv/.test ## build dist/*.whl
	$(BIN)/python -m build --wheel

zipapp: .venv/.run ## build dist/sriov-textfile.pyz, the program in one file
	$(BIN)/python -m tools.zipapp

clean: ## remove what the targets created in the checkout
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/.run: pyproject.toml
	PYTHON="$(PYTHON)" tools/venv .
	@touch $@

# An extra of pyproject.toml has the name of its stamp.
.venv/.test .venv/.lint .venv/.e2e .venv/.bench: pyproject.toml
	PYTHON="$(PYTHON)" tools/venv '.[$(patsubst .%,%,$(notdir $@))]'
	@touch .venv/.run $@
