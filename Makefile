# On a new machine, make demo and make test first create a virtual environment and install pinned dependencies and FFmpeg.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
FUZZ_SECONDS ?= 600
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: help setup ffmpeg demo test test-slow test-versions fuzz lint docs benchmark format clean

help:  ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

setup: $(VENV)/.installed ffmpeg  ## Create the virtual environment; install FFmpeg if it is missing

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing the dependencies into $(VENV): about 7 GB, some minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[dev]"
	touch $@

# torchcodec (used by datasets) needs FFmpeg's shared libraries. pipeline("file.wav") needs the ffmpeg program.
ffmpeg:
	@command -v ffmpeg >/dev/null || { \
		echo "Installing FFmpeg"; \
		if command -v apt-get >/dev/null; then \
			$(SUDO) apt-get update -qq && \
			$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ffmpeg >/dev/null; \
		elif command -v brew >/dev/null; then brew install --quiet ffmpeg; \
		else echo "Install FFmpeg with its shared libraries, then run make again." >&2; exit 1; fi; }

demo: setup  ## Generate a small speech dataset, train on it, evaluate and classify clips
	$(BIN)/python -m sanet_hf.training.demo

test: setup lint  ## Check the style and run the tests that take less than 20 s each
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 8 --dist loadfile

test-slow: setup  ## Run the tests that take longer
	$(BIN)/python -m pytest -m slow

test-versions: ffmpeg  ## Run the core tests with the oldest and the newest supported versions (15 GB, an hour)
	$(PYTHON) tests/versions/check.py

fuzz: setup  ## Fuzz audio decoding and the feature extractor for FUZZ_SECONDS; failing inputs are in build/fuzz
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[fuzz]"
	mkdir -p build/fuzz
	$(BIN)/python tests/fuzz/fuzz_audio.py -max_total_time=$(FUZZ_SECONDS) -timeout=60 -rss_limit_mb=4096 \
		-print_final_stats=1 -artifact_prefix=build/fuzz/ build/fuzz/corpus

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: setup  ## Build the documentation as a site in build/docs; dead links are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

benchmark: setup  ## Measure speed and memory of SANet, the original, AST and wav2vec2 (an hour)
	$(BIN)/python -m benchmarks.inference --output build/benchmarks/inference.json
	$(BIN)/python -m benchmarks.training --output build/benchmarks/training.json
	$(BIN)/python -m benchmarks.features --output build/benchmarks/features.json
	$(BIN)/python -m benchmarks.memory --output build/benchmarks/memory.json
	$(BIN)/python -m benchmarks.data --output build/benchmarks/data.json
	$(BIN)/python -m benchmarks.busy --output build/benchmarks/busy.json

format: setup  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the files of the demo and the build
	rm -rf build dist *.egg-info demo
