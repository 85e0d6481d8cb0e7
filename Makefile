# Everything is set up in .venv/; `make help` lists the targets.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test lint e2e bench lab pictures install-systemd proto wheel zipapp clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: .venv/.run ## run the program on a simulated host and print what it writes
	@$(BIN)/sriov-textfile demo

test: .venv/.dev ## run the tests; no root, no hardware
	$(BIN)/pytest

lint: .venv/.dev ## check style, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

e2e: .venv/.dev ## let the real programs around it read what the program writes; needs Debian
	$(BIN)/pytest e2e

bench: .venv/.bench ## measure what a run and a collection cost, beside other ways to do the same
	$(BIN)/python -m bench

lab: .venv/.dev ## run the program on a virtual machine with SR-IOV NICs; needs root and Debian
	$(BIN)/python -m lab

pictures: .venv/.bench ## draw the pictures of the documentation
	$(BIN)/python -m e2e.pictures

install-systemd: ## put the systemd units and their files below DESTDIR (empty: this host)
	install -d $(DESTDIR)/etc/systemd/system $(DESTDIR)/etc/default $(DESTDIR)/etc/sysusers.d
	install -m 644 systemd/*.service systemd/*.timer $(DESTDIR)/etc/systemd/system
	install -m 644 systemd/sysusers.conf $(DESTDIR)/etc/sysusers.d/sriov-textfile.conf
	test -e $(DESTDIR)/etc/default/sriov-textfile || \
	  install -m 644 systemd/sriov-textfile.default $(DESTDIR)/etc/default/sriov-textfile

proto: .venv/.dev ## generate the messages of the kubelet's API from their .proto
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. sriov_textfile/kubelet/podresources.proto

wheel: .venv/.dev ## build dist/*.whl
	$(BIN)/python -m build --wheel

zipapp: .venv/.run ## build dist/sriov-textfile.pyz, the program in one file
	$(BIN)/python -m tools.zipapp

clean: ## remove what the targets made in the checkout
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/.run: pyproject.toml
	PYTHON="$(PYTHON)" tools/venv .
	@touch $@

.venv/.bench: pyproject.toml
	PYTHON="$(PYTHON)" tools/venv '.[dev,bench]'
	@touch .venv/.run .venv/.dev $@

.venv/.dev: pyproject.toml
	PYTHON="$(PYTHON)" tools/venv '.[dev]'
	@touch .venv/.run $@
