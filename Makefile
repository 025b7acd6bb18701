# libdiffusion's front door. `make help` lists what it can do; every target says what it does while it does it.

CARGO   ?= cargo
CC      ?= gcc
CXX     ?= g++
PREFIX  ?= /usr/local
LIBDIR  ?= $(PREFIX)/lib
DESTDIR ?=

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
SONAME  := libdiffusion.so.$(firstword $(subst ., ,$(VERSION)))
FILE    := libdiffusion.so.$(VERSION)
export CC CXX

# The folders of the stand-in for CUDA that tests/driver builds.
STAND_IN := $(subst $(eval) ,:,$(addprefix $(CURDIR)/build/tests/driver/,cuda cublaslt nvrtc))

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo gallery lib examples test check header docs bench kernels kernels-check gpu install uninstall clean \
        setup test-format test-lint test-rust test-header test-symbols test-capi test-panics test-examples test-install test-documents test-training test-kernels test-driver

## help: this list
help:
	@echo "libdiffusion $(VERSION)"
	@sed -n 's/^## //p' Makefile | awk -F': ' '{ printf "  make %-13s %s\n", $$1, $$2 }'

## demo: build everything needed, turn a prompt into demo.png, and say how long each stage took
demo: lib build/bin/02_txt2img
	@echo "== generating \"a rocket on a dark blue background\" with models/emoji"
	@build/bin/02_txt2img --model models/emoji --prompt "a rocket on a dark blue background" \
	    --guidance 2.5 --steps 20 --seed 1 -o demo.png
	@echo "== done: the picture is $(CURDIR)/demo.png"

## gallery: draw the pictures of the README anew, with the seeds that it names
gallery: lib build/bin/02_txt2img
	@echo "== drawing the prompts of tools/gallery.txt with models/emoji"
	@tools/gallery.sh

## lib: build the release library into build/lib
# `cargo rustc --crate-type cdylib`: with several crate types cargo drops link-time optimisation without a word.
lib:
	@echo "== building the release library (the first time this takes minutes)"
	@$(CARGO) rustc --release --lib --crate-type cdylib
	@mkdir -p build/lib
	@cmp -s target/release/libdiffusion.so build/lib/$(FILE) || cp target/release/libdiffusion.so build/lib/$(FILE)
	@ln -sf $(FILE) build/lib/$(SONAME)
	@ln -sf $(FILE) build/lib/libdiffusion.so

build/lib/$(FILE):
	@$(MAKE) --no-print-directory lib

# The C examples, strictly: they are what people copy.
build/bin/%: examples/c/%.c include/diffusion.h build/lib/$(FILE)
	@echo "== building $<"
	@mkdir -p build/bin
	@$(CC) -std=c99 -O2 -Wall -Wextra -Wpedantic -Wconversion -Werror -Iinclude $< \
	    -Lbuild/lib -Wl,-rpath,'$$ORIGIN/../lib' -ldiffusion -lm -o $@

EXAMPLES := $(patsubst examples/c/%.c,build/bin/%,$(wildcard examples/c/*.c))

## examples: build the C examples into build/bin
examples: lib $(EXAMPLES)

## check: the quick part of `make test`: format, lint, layering, unit tests
check: test-format test-lint
	@echo "== unit tests and layering"
	@$(CARGO) test --lib --test layering
	@echo "== check: all passed"

## test: everything a change must pass; stops at the first failure
test: setup test-format test-lint test-documents test-training test-kernels test-driver lib test-header test-symbols test-examples test-capi test-install test-panics test-rust

setup:
	@tools/setup.sh

test-format:
	@echo "== format"
	@$(CARGO) fmt --check
	@$(CARGO) fmt --check --manifest-path tests/driver/Cargo.toml

test-lint:
	@echo "== lint"
	@$(CARGO) clippy --all-targets --quiet -- -D warnings

test-documents:
	@echo "== links in the documents, crates in NOTICE"
	@tests/links.sh
	@tests/notice.sh

# Standard library only: what trains the default model needs more, and is run by hand.
test-training:
	@echo "== data of the default model: captions, held-out splits, refusals"
	@python3 tools/default_model/test_offline.py --quiet

test-kernels:
	@echo "== CUDA kernels, on an emulated GPU: every schedule, watched for races, AddressSanitizer and UBSan"
	@tests/kernels/run.sh plain watch asan

## test-driver: build the stand-in CUDA driver into build/tests/driver, and test it through cudarc
test-driver:
	@echo "== stand-in CUDA driver and cuBLASLt, through cudarc"
	@$(MAKE) --no-print-directory -C tests/driver -j "$$(nproc)"
	@tests/kernels/run.sh card
	@LD_LIBRARY_PATH=$(STAND_IN) $(CARGO) test --quiet --locked --manifest-path tests/driver/Cargo.toml \
	    --target-dir build/driver-tests

test-header:
	@echo "== header: as src/capi says, alone in C and C++, layout, foreign-function parsers"
	@$(CARGO) run --quiet --manifest-path tools/header/Cargo.toml --target-dir build/header-tool -- --check
	@tests/header/run.sh build/lib/libdiffusion.so

test-symbols:
	@echo "== exported symbols"
	@tests/symbols.sh build/lib/libdiffusion.so

test-examples: $(EXAMPLES)
	@echo "== examples"
	@tests/examples.sh

test-capi:
	@echo "== C harness: plain, AddressSanitizer and UBSan, valgrind, CUDA on the stand-in driver"
	@tests/capi/run.sh build/lib plain asan valgrind cuda

test-install:
	@echo "== install, use, uninstall"
	@tests/install/run.sh

# A library of its own, with the profile (and so the compiled dependencies) of the Rust tests.
test-panics:
	@echo "== planted panics"
	@$(CARGO) build --profile test --lib --features fault-injection --quiet
	@mkdir -p build/fault-injection
	@cp target/debug/libdiffusion.so build/fault-injection/libdiffusion.so
	@ln -sf libdiffusion.so build/fault-injection/$(SONAME)
	@tests/capi/run.sh build/fault-injection panics

# With the stand-in driver: LIBDIFFUSION_STAND_IN makes it a failure if that is not found.
test-rust:
	@echo "== Rust tests: units, operations, blocks, pipeline, layering"
	@rm -rf build/tests/cache
	@LD_LIBRARY_PATH=$(STAND_IN) LIBDIFFUSION_STAND_IN=1 LIBDIFFUSION_CACHE_DIR=$(CURDIR)/build/tests/cache $(CARGO) test
	@echo "== the bench of CUDA, with small shapes"
	@LD_LIBRARY_PATH=$(STAND_IN) LIBDIFFUSION_CACHE_DIR=$(CURDIR)/build/tests/cache $(CARGO) test --quiet --bench cuda -- --smoke | grep '| VAE | group norm' >/dev/null

## header: write include/diffusion.h anew from src/capi
header:
	@echo "== generating include/diffusion.h"
	@$(CARGO) run --quiet --manifest-path tools/header/Cargo.toml --target-dir build/header-tool

## docs: write the tables of docs/sampling.md anew from src/sampling
docs:
	@echo "== generating docs/sampling.md"
	@WRITE_DOCS=1 $(CARGO) test --quiet --lib the_page_equals_the_tables

## kernels: compile the CUDA kernels for every architecture into build/kernels (no GPU, driver or toolkit needed)
kernels:
	@echo "== compiling kernels"
	@tools/kernels.py build

## kernels-check: compile them, list what each uses, and fail on warnings and register spills
kernels-check:
	@echo "== checking kernels on every architecture"
	@tools/kernels.py check

## gpu: build into build/gpu what tools/gpu_check.sh runs on a machine with an NVIDIA GPU (needs the package index)
gpu:
	@tools/gpu_build.sh

## bench: measure operations and their share of the machine's peak, a U-Net step, the VAE and the samplers
bench:
	@echo "== benchmarks (BENCH_MODEL=FOLDER adds a model of yours, BENCH_THREADS=N threads for operations)"
	@$(CARGO) bench --bench ops --bench models --bench sampling
	@python3 tools/bench_table.py

## install: put header, library and pkg-config file under DESTDIR PREFIX (default /usr/local)
install: build/lib/$(FILE)
	@echo "== installing libdiffusion $(VERSION) under $(DESTDIR)$(PREFIX)"
	@install -d "$(DESTDIR)$(PREFIX)/include" "$(DESTDIR)$(LIBDIR)/pkgconfig"
	@install -m 644 include/diffusion.h "$(DESTDIR)$(PREFIX)/include/diffusion.h"
	@install -m 755 build/lib/$(FILE) "$(DESTDIR)$(LIBDIR)/$(FILE)"
	@strip --strip-unneeded "$(DESTDIR)$(LIBDIR)/$(FILE)"
	@ln -sf $(FILE) "$(DESTDIR)$(LIBDIR)/$(SONAME)"
	@ln -sf $(SONAME) "$(DESTDIR)$(LIBDIR)/libdiffusion.so"
	@sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@VERSION@|$(VERSION)|' diffusion.pc.in \
	    > "$(DESTDIR)$(LIBDIR)/pkgconfig/diffusion.pc"
	@chmod 644 "$(DESTDIR)$(LIBDIR)/pkgconfig/diffusion.pc"

## uninstall: remove what `make install` with the same PREFIX and DESTDIR put there
uninstall:
	@echo "== removing libdiffusion from $(DESTDIR)$(PREFIX)"
	@rm -f "$(DESTDIR)$(PREFIX)/include/diffusion.h" "$(DESTDIR)$(LIBDIR)/pkgconfig/diffusion.pc" \
	    "$(DESTDIR)$(LIBDIR)/$(FILE)" "$(DESTDIR)$(LIBDIR)/$(SONAME)" "$(DESTDIR)$(LIBDIR)/libdiffusion.so"

## clean: remove everything that was built
clean:
	@$(CARGO) clean
	@rm -rf build demo.png
