# make demo: from a fresh checkout to demo.png.      make test: lint, types, tests.
# Both build .venv once; a second call starts at once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The only place where torch's version is pinned: pyproject.toml asks for a range.
TORCH := torch==2.13.0
# Runs the kernels in Triton's interpreter where there is no GPU; tests only, the package does not need it.
TRITON := triton==3.7.0
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

SOURCES := $(wildcard csrc/*)

.PHONY: demo test bench gallery compatibility lint format types wheel check-cuda sanitize clean distclean

demo: $(VENV)/.package
	@$(BIN)/python -m bench.demo -o demo.png
	@echo "The picture is $(CURDIR)/demo.png"

# Files side by side, each with one thread: tests are small, and threads only wait for one another.
test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Wants a quiet machine, and says so where it is not.
bench: $(VENV)/.dev
	$(BIN)/python -m bench.ops
	$(BIN)/python -m bench.end_to_end
	$(BIN)/python -m bench.mesh
	$(BIN)/python -m bench.report

# Contact sheets of all tasks by all methods; takes an hour on two cores, and goes on where it was stopped.
gallery: $(VENV)/.package
	docs/make_pictures.sh
	$(BIN)/python -m bench.gallery

# docs/compatibility.md, from the tests that run families, schedulers, methods and tasks.
compatibility: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/priors/probe tests/test_tasks_on_families.py \
		--compatibility build/compatibility.json
	$(BIN)/python -m bench.compatibility build/compatibility.json

lint: $(VENV)/.dev
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# build/ is emptied first: setuptools would pack files of it that the sources no longer have.
wheel: $(VENV)/.package
	rm -rf build dist
	$(BIN)/python -m pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist

# The CUDA sources up to the binding know no torch: nvcc alone compiles them, on a machine without a GPU too.
check-cuda:
	@for arch in 80 90 120; do for source in csrc/*.cu; do \
		echo "nvcc -c $$source for sm_$$arch"; \
		nvcc -std=c++17 -Werror all-warnings -gencode arch=compute_$$arch,code=sm_$$arch -c $$source -o /dev/null || exit 1; \
	done; done

# The C++ launchers, without torch, against naive loops under ASan and UBSan.
sanitize:
	@mkdir -p build
	$(CXX) -std=c++17 -O1 -g -fopenmp-simd -DFASTSYNC_PLAIN -fsanitize=address,undefined -fno-sanitize-recover=all \
		-Wall -Wextra -Werror tests/native/sanitize.cpp $(filter-out csrc/bindings%,$(filter %.cpp,$(SOURCES))) \
		-o build/sanitize
	build/sanitize

# torch comes first and build isolation is off, so that setup.py sees the torch it builds against.
$(VENV)/.torch: Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "fastsync needs Python 3.10 or newer, " \
		"$(PYTHON) is " + sys.version.split()[0] + ": call make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH) "setuptools>=77" wheel ninja
	@touch $@

$(VENV)/.package: $(VENV)/.torch setup.py pyproject.toml $(SOURCES)
	$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.package
	$(PIP) --no-build-isolation --editable ".[dev]" $(TRITON)
	@touch $@

clean:
	rm -rf build dist fastsync.egg-info fastsync/_C*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis demo.png
	find fastsync kernels bench tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
