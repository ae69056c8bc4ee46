# Every target sets up what it needs: a virtual environment in .venv and a pinned installation.
PYTHON ?= python3
BIN := .venv/bin
RUNS ?= runs
comma := ,
# Set, it would have every process of the tests compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow test-all test-lowest fuzz check bench docs format clean

define install
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(1)]"
	@touch $@
endef

.venv/installed-demo: pyproject.toml constraints.txt
	$(call install,all)

# torchcfm comes without its requirements: torchdyn, which the couplings do not use, brings a torchvision that need not
# match the installed torch.
.venv/installed-test: pyproject.toml constraints.txt
	$(call install,test)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt torchcfm || (rm $@; exit 1)

.venv/installed-docs: pyproject.toml constraints.txt
	$(call install,all$(comma)docs)

demo: .venv/installed-demo
	$(BIN)/proxflow fit digits --out $(RUNS)/digits --overwrite
	$(BIN)/proxflow sample $(RUNS)/digits --count 64
	@echo "Open $(RUNS)/digits/report.html in a browser."

test: .venv/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-slow: .venv/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m slow

test-all: test test-slow

# The lowest versions that pyproject.toml states, torch's too unless TORCH says another. What they warn of is theirs.
TORCH ?=
.venv-lowest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check uv
	echo "$(if $(TORCH),torch==$(TORCH))" > .venv-lowest/override
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest --resolution lowest-direct \
		--override .venv-lowest/override -e ".[test]"
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest --no-deps torchcfm
	touch $@

test-lowest: .venv-lowest/installed
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n 2 --dist worksteal -m "not slow" \
		-W ignore::DeprecationWarning -W ignore::PendingDeprecationWarning -W ignore::FutureWarning \
		-W "ignore:The given buffer is not writable:UserWarning" -W "ignore:Sparse invariant checks:UserWarning"

fuzz: .venv/installed-test
	OMP_NUM_THREADS=1 PROXFLOW_FUZZ=10100 $(BIN)/python -m pytest tests/test_fuzz.py tests/test_fuzz_data.py

check: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed-test
	$(BIN)/python benchmarks/prox.py
	$(BIN)/python benchmarks/semidiscrete.py
	$(BIN)/python benchmarks/solvers.py --only digits
	$(BIN)/python benchmarks/couplings.py

docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs/images/flow.png: docs/picture.py .venv/installed-demo
	$(BIN)/python docs/picture.py

docs/images/audit-%.png: docs/audit_pictures.py .venv/installed-demo
	$(BIN)/python docs/audit_pictures.py

format: .venv/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-lowest site dist .mypy_cache .ruff_cache .pytest_cache
