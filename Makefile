# Everything starts from a fresh checkout: each target makes .venv and installs what it needs, once.
#
#   make demo        compile the digit models and run them
#   make demo-web    a page on which you draw a digit, served on this machine
#   make serve-demo  the digit models behind HTTP and gRPC
#   make test        lint, types, layers, and the quick tests
#   make test-slow   whole networks, other architectures (QEMU), WebAssembly (Node, Chromium), sanitizers,
#                    libraries from Rust, Go, Java, C#, and what test-clients runs
#   make test-clients  serving asked by the clients of Triton and KServe, and compared with a real Triton
#   make onnx-conformance  the tests of the ONNX standard, and the list of those that fail
#   make fuzz        operators and graphs drawn at random, against ONNX Runtime, and requests drawn
#                    at random, at a server (hours)
#   make bench       measure against ONNX Runtime and OpenVINO (half an hour), into bench/results/
#   make bench-operators   single operators against ONNX Runtime (five minutes), into docs/ too
#   make bench-library     native libraries: calls from C, opening, many at once
#   make bench-trees   tree ensembles against LightGBM, XGBoost, lleaves, tl2cgen and others
#                    (half an hour; needs GCC), into bench/results/ and docs/
#   make bench-serving  naru serve against MLServer, Triton and a bare server, and under load (nine minutes)
#   make bench-web   WebAssembly against ONNX Runtime Web, in Node and Chromium (ten minutes)
#   make wheels      build the wheels and source distributions into dist/
#   make check       only lint, format, types, layers and sizes
#   make clean       remove what was made; `make clean-all` removes .venv too

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n 2

# A change to any of these means that the package must be installed again. (An empty match is fine.)
SOURCES := $(wildcard pyproject.toml setup.py build_backend/*.py \
             naru/runtime/native/*.c naru/runtime/native/*.h)

.PHONY: demo demo-web serve-demo test test-slow test-clients clients onnx-conformance fuzz bench bench-amx bench-operators bench-library bench-trees bench-web bench-serving wheels \
  check clean clean-all qemu node gdb chromium languages openssl base64 wrk
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/python -m naru demo

serve-demo: $(VENV)/.installed-serve
	$(BIN)/python -m naru serve naru/demo --grpc-port 8081

demo-web: $(VENV)/.installed
	$(BIN)/python -m naru demo --web

test: check node
	$(PYTEST) -m "not slow and not clients" tests

# What asks `naru serve`, each in an environment of its own: the clients of Triton and KServe, a real
# Triton, its load generator, and requests drawn from a description.
CLIENTS := $(patsubst %,.venv-%/.installed,clients kserve triton perf schemathesis)

test-slow: $(VENV)/.installed-slow qemu node gdb chromium languages openssl bench/web/node_modules/.installed clients
	$(PYTEST) -m "slow or clients" tests

test-clients: $(VENV)/.installed-test clients
	$(PYTEST) -m clients tests/serve

# Several at a time: they mostly wait for what they fetch.
clients: base64
	@$(MAKE) --no-print-directory -j3 $(CLIENTS)

# The newest, and older ones in environments of their own (below .venv-conformance).
SUITES := 1.17.0 1.21.0 1.23.2

onnx-conformance: $(VENV)/.installed-test
	$(BIN)/python tools/onnx_conformance.py $(SUITES:%=--onnx %)

fuzz: $(VENV)/.installed-test
	$(BIN)/python tools/fuzz.py

bench: $(VENV)/.installed-bench
	$(BIN)/python bench/run.py

# On a CPU with AMX: products in its tiles, of two parts and, beside what OpenVINO does unasked, of one.
bench-amx: $(VENV)/.installed-bench
	$(BIN)/python bench/run.py --isa amx
	$(BIN)/python bench/run.py --isa amx --precision bf16 --against onnxruntime,openvino-default

bench-operators: $(VENV)/.installed-bench
	$(BIN)/python bench/operators.py

bench-web: $(VENV)/.installed-bench node chromium bench/web/node_modules/.installed
	$(BIN)/python bench/web.py

# ONNX Runtime Web, for bench/web.py and its test.
bench/web/node_modules/.installed: bench/web/package.json bench/web/package-lock.json
	@command -v npm >/dev/null || { \
	  echo "npm is missing: expected it beside Node.js (Debian's package npm)" >&2; exit 1; }
	npm --prefix bench/web ci --ignore-scripts --no-audit --no-fund
	@touch $@

bench-library: $(VENV)/.installed-test
	$(BIN)/python bench/libraries.py

bench-trees: $(VENV)/.installed-bench .venv-trees/.installed
	$(BIN)/python bench/trees.py

bench-serving: $(VENV)/.installed-bench .venv-triton/.installed .venv-mlserver/.installed wrk
	$(BIN)/python bench/serving.py

# $(call environment,OPTIONS): an environment of its own, with what the first prerequisite lists.
# Nothing is compiled beforehand: most of it is never imported.
define environment
$(PYTHON) -m venv $(@D)
$(@D)/bin/python -m pip install --quiet --no-compile $(1) -r $<
@touch $@
endef

.venv-mlserver/.installed: bench/serving-requirements.txt
	$(call environment)

wrk:
	$(call debian,wrk:wrk)

# Other engines of trees: lleaves needs an LLVM older than naru's.
.venv-trees/.installed: bench/trees-requirements.txt
	$(call environment)

.venv-clients/.installed: tests/serve/clients-requirements.txt
	$(call environment)

.venv-kserve/.installed: tests/serve/kserve-requirements.txt
	$(call environment)

.venv-triton/.installed: tests/serve/oracle-requirements.txt
	$(call environment)

.venv-perf/.installed: tests/serve/perf-requirements.txt | base64
	$(call environment,--no-deps)

.venv-schemathesis/.installed: tests/serve/schemathesis-requirements.txt
	$(call environment)

wheels: $(VENV)/.installed-test
	$(BIN)/python tools/build_wheels.py

check: $(VENV)/.installed-test
	PATH="$(CURDIR)/$(BIN):$$PATH" tools/check

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "naru needs Python 3.11 or newer; this is $$($(PYTHON) --version)." >&2; \
	  echo "  try: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

# Editable, so that a change of a Python file needs no second installation.
$(VENV)/.installed: $(VENV)/.made $(SOURCES)
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.made $(SOURCES)
	$(BIN)/python -m pip install --quiet -e '.[test,dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-serve: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -e '.[serve,arrow,images]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet -e '.[test,dev,bench]'
	@touch $@

# Triton's interpreter runs GPU kernels on the CPU; its wheel is large, so only here.
$(VENV)/.installed-slow: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet -e '.[test,dev,cross,triton,browser]'
	@touch $@

# Debian packages, for whichever of the commands or files is missing:
# $(call debian,COMMAND:PACKAGE …).
define debian
@missing=; for pair in $(1); do \
  command -v "$${pair%%:*}" >/dev/null || [ -e "$${pair%%:*}" ] || \
    missing="$$missing $${pair##*:}"; \
done; \
if [ -z "$$missing" ]; then :; \
elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
  echo "installing$$missing"; \
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends $$missing; \
else \
  echo "$@: expected the Debian packages$$missing" >&2; \
  echo "  try: sudo apt-get install$$missing" >&2; exit 1; \
fi
endef

# The tests run code for AArch64 and RISC-V under QEMU's user mode, and libraries with AArch64's glibc.
qemu:
	$(call debian,qemu-aarch64:qemu-user \
	  /usr/aarch64-linux-gnu/lib/ld-linux-aarch64.so.1:libc6-arm64-cross)

# A library that Triton's load generator wants.
base64:
	$(call debian,/usr/lib/x86_64-linux-gnu/libb64.so.0d:libb64-0d)

# Packages for the web run in a browser, without a window.
chromium:
	$(call debian,chromium:chromium)

# A test stops in a kernel by its name.
gdb:
	$(call debian,gdb:gdb)

# Certificates of the tests of TLS.
openssl:
	$(call debian,openssl:openssl)

# The programs of docs/languages.md.
languages:
	$(call debian,rustc:rustc go:golang-go gofmt:golang-go javac:default-jdk-headless mcs:mono-mcs)

# WebAssembly runs in Node; nothing is installed for it.
node:
	@node -e 'process.exit(process.versions.node.split(".")[0] < 20 ? 1 : 0)' 2>/dev/null || { \
	  echo "expected Node.js 20 or newer on PATH, for the WebAssembly tests;" \
	    "found $$(node --version 2>/dev/null || echo none)" >&2; \
	  exit 1; }

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis *.egg-info
	find naru packages tests tools bench models -name __pycache__ -type d -prune -exec rm -rf {} +
	find naru -name '*.so' -delete
	# The extension is gone: the next target must build it.
	rm -f $(VENV)/.installed $(VENV)/.installed-test $(VENV)/.installed-bench \
	  $(VENV)/.installed-slow

clean-all: clean
	rm -rf $(VENV) .venv-conformance .venv-trees .venv-mlserver $(CLIENTS:%/.installed=%)
