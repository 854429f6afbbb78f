# One front door. Every target starts from a fresh clone; `make` alone prints this list.
PRESET ?= release
JOBS ?= $(shell nproc)
BUILD := build/$(PRESET)
BIN := $(BUILD)/bin
TESTS ?=

SETUP_ONLY := $(if $(filter core asan,$(PRESET)),none,)

.DEFAULT_GOAL := help
.PHONY: help setup build run test bench bench-peers bench-search bench-train bench-gap-loss bench-rank doctor format check clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: ## system packages and pinned wheels (nothing to do: under a second)
	@scripts/bootstrap $(if $(SETUP_ONLY),--only $(SETUP_ONLY))

build: setup ## configure and build (PRESET=release|dev|asan|core)
	@cmake --preset $(PRESET) > /dev/null
	@cmake --build --preset $(PRESET) -j $(JOBS)

run: build ## the demo: from generated images to a deployed network and a report in runs/demo
	@$(BIN)/chanas run --run-dir runs/demo

test: setup ## build and run all tests (TESTS=regex selects)
	@scripts/bootstrap --only test
	@cmake --preset $(PRESET) > /dev/null
	@cmake --build --preset $(PRESET) -j $(JOBS)
	@python3 scripts/check_layers.py
	@ctest --preset $(PRESET) --output-on-failure $(if $(TESTS),-R $(TESTS))

bench: build ## latency of MobileNetV3-L under default schedules
	@$(BIN)/chanas bench mobilenet_v3_large

bench-search: build ## quality of the schedule search on recorded spaces (bench/out/search.json, .svg)
	@$(BIN)/chanas-bench-search compare

NETWORKS ?= zoo table3
THREADS ?= 1 2
ROUNDS ?= 30
TUNE_BUDGET ?= 240
bench-peers: build ## against other engines (NETWORKS="zoo table3 my.toml" THREADS="1 2" ROUNDS TUNE_BUDGET=seconds)
	@peers=$$(scripts/bootstrap --only peers --print-folders) && $$peers/bin/python bench/peers/run.py --bin $(BIN) --networks $(NETWORKS) \
		--threads $(THREADS) --rounds $(ROUNDS) --tune-budget $(TUNE_BUDGET)

bench-train: build ## speed and memory of training steps beside plain LibTorch, to bench/out/train.json
	@$(BIN)/bench-train bench/out/train.json

CONFIG ?=
DATA ?=
NAME ?= builtin
bench-gap-loss: build ## supernets with and without the generalisation-gap loss (CONFIG= DATA= NAME=; half an hour)
	@python3 bench/gap_loss/run.py --bin $(BIN) --config "$(CONFIG)" --data "$(DATA)" --name "$(NAME)"

bench-rank: build ## does the supernet rank networks as trainings from scratch do (half an hour; repeat it to go on)
	@$(BIN)/chanas run --config bench/ranking/config.toml --until train --run-dir bench/out/ranking
	@$(BIN)/chanas rank-check --run-dir bench/out/ranking --networks 30 --epochs 36

doctor: build ## check compiler, libraries, device, clocks, disk; say how to mend each
	@$(BIN)/chanas doctor

format: ## format the sources
	@git ls-files '*.h' '*.cpp' '*.c' | xargs clang-format -i

check: ## module order and formatting
	@python3 scripts/check_layers.py
	@git ls-files '*.h' '*.cpp' '*.c' | xargs clang-format --dry-run -Werror

clean: ## remove build outputs (not the cache of dependencies)
	@rm -rf build
