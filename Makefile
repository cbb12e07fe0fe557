# Short names for what CMake does; `make help` lists them.

BUILD_JOBS ?= $(shell nproc)
PREFIX ?= /usr/local
first_of = $(firstword $(foreach name,$(1),$(shell command -v $(name) 2>/dev/null)) $(lastword $(1)))
CLANGXX ?= $(call first_of,clang++-14 clang++)
CLANG_FORMAT ?= $(call first_of,clang-format-14 clang-format)
CLANG_TIDY ?= $(call first_of,clang-tidy-14 clang-tidy)
RUN_CLANG_TIDY ?= $(call first_of,run-clang-tidy-14 run-clang-tidy)

release = build/release
sources = find $(wildcard bench examples include python src tests) -name '*.cpp' -o -name '*.h'

network_rows := build/bench/networks.json
fewer_networks := --network MobileNetV2 --network ResNet-50 --network DenseNet-121 --network "MLP, 64" --rounds 7
compiled_networks := --network MobileNetV2 --network ResNet-18 --format nchw --rounds 7

.PHONY: help build demo python wheel test bench bench-networks bench-distributed format format-check tidy lint install clean
.DEFAULT_GOAL := help

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-19s%s\n", $$1, $$2}' Makefile

build: ## build the library and the command (build/release/exactnorm)
	@# Tests need more packages than this; a build directory that has them keeps them.
	cmake --preset release $(if $(wildcard $(release)/CMakeCache.txt),,-DEXACTNORM_BUILD_TESTS=OFF)
	cmake --build $(release) --parallel $(BUILD_JOBS) --target exactnorm_cli

demo: ## install what building needs, build, and run the demonstration
	scripts/setup --build
	@$(MAKE) --no-print-directory build
	$(release)/exactnorm demo

python: ## install the Python package, and what it needs, into .venv
	scripts/setup --test
	.venv/bin/python -m pip install --quiet --disable-pip-version-check .

wheel: ## build a wheel for other machines into build/wheel, and try it with NumPy alone
	scripts/wheel

test: python ## install what testing needs, build, and run all tests
	cmake --preset release -DEXACTNORM_BUILD_TESTS=ON
	cmake --build $(release) --parallel $(BUILD_JOBS)
	ctest --test-dir $(release) --output-on-failure --parallel $(BUILD_JOBS)
	.venv/bin/python -m pytest -q

bench: ## install what the benchmarks need, measure all (15 minutes), and write docs/performance.md
	scripts/setup_bench
	cmake --preset release -DEXACTNORM_BUILD_TESTS=ON -DEXACTNORM_BUILD_BENCHMARKS=ON \
	  -DEXACTNORM_ONEDNN_ROOT=$(CURDIR)/.venv-bench/onednn \
	  -DEXACTNORM_ONEDNN_GOMP_ROOT=$(CURDIR)/.venv-bench/onednn-gomp
	cmake --build $(release) --parallel $(BUILD_JOBS)
	.venv-bench/bin/python bench/report.py

bench-networks: ## train whole networks in PyTorch, with Exactnorm and without (50 minutes); writes docs/networks.md
	scripts/setup_bench
	.venv-bench/bin/python bench/networks.py --add-to $(network_rows)
	.venv-bench/bin/python bench/networks.py --add-to $(network_rows) --dtype bfloat16 $(fewer_networks)
	.venv-bench/bin/python bench/networks.py --add-to $(network_rows) --step evaluation --no-profile $(fewer_networks)
	.venv-bench/bin/python bench/networks.py --add-to $(network_rows) --compiled fast $(compiled_networks)
	.venv-bench/bin/python bench/networks.py --add-to $(network_rows) --compiled exact $(compiled_networks)
	.venv-bench/bin/python bench/networks_page.py $(network_rows)

bench-distributed: python ## measure synchronization over MPI (3 minutes); prints the tables of docs/distributed.md
	cmake --preset release -DEXACTNORM_BUILD_TESTS=ON -DEXACTNORM_BUILD_BENCHMARKS=ON -DEXACTNORM_MPI=ON
	cmake --build $(release) --parallel $(BUILD_JOBS) --target exactnorm_bench_ranks
	.venv/bin/python bench/distributed.py

format: ## format the sources in place
	$(sources) | xargs $(CLANG_FORMAT) -i

format-check: ## fail where the sources are not formatted
	$(sources) | xargs $(CLANG_FORMAT) --dry-run --Werror

tidy: ## run clang-tidy over src
	cmake --preset clang -DCMAKE_CXX_COMPILER=$(CLANGXX)
	$(RUN_CLANG_TIDY) -quiet -j $(BUILD_JOBS) -clang-tidy-binary $(CLANG_TIDY) -p build/clang '^$(CURDIR)/src/.*\.cpp$$'

lint: format-check tidy ## both of these

install: build ## install into PREFIX (/usr/local)
	cmake --install $(release) --prefix $(PREFIX)

clean: ## remove everything that was built
	rm -rf build
