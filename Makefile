# The commands for people; the build itself is CMake's (see CMakePresets.json).
PREFIX ?= /usr/local

.PHONY: all demo test bench docs install clean format lint
.DEFAULT_GOAL := all

all: ## build the library and the program: build/release
	@scripts/setup
	@cmake --preset release >/dev/null
	@cmake --build --preset release --target all

demo: ## build, run every system on embedded samples, write out/demo/index.html
	@scripts/setup
	@scripts/demo

test: ## all tests, also under sanitizers; the fuzz targets; the demo in short
	@scripts/setup --test
	@scripts/test

bench: ## benchmarks
	@scripts/setup
	@scripts/bench

docs: ## HTML pages of the public headers: out/docs
	@scripts/docs

install: all ## to PREFIX (/usr/local), below DESTDIR
	@DESTDIR="$(DESTDIR)" cmake --install build/release --prefix "$(PREFIX)"
	@if [ -z "$(DESTDIR)" ] && [ "$$(id -u)" = 0 ]; then ldconfig; fi

format: ## lay the sources out anew
	@git ls-files -co --exclude-standard '*.c' '*.h' | xargs clang-format -i

lint: ## layout, clang-tidy, cppcheck
	@scripts/setup --dev
	@scripts/lint

clean: ## remove what was built
	@rm -rf build out

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile
.PHONY: help
