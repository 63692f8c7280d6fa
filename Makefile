# softpos. `make run` and `make test` need Python 3.11 or later, make and a package index, and nothing else.

PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONDONTWRITEBYTECODE := 1
export SAM_CLI_TELEMETRY := 0
# What the sandbox and the tests are must not depend on what the developer's shell exports for AWS.
unexport AWS_PROFILE AWS_REGION AWS_DEFAULT_REGION AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN

READY := .venv/ready
CODE := functions layers onboarding sandbox tests
# A file's tests share what is slow to make. Each worker has a local stack of its own.
PARALLEL := -n auto --dist loadfile

.PHONY: help run token test format check-format lint types template unit integration soak build lock clean

help:
	@echo 'make run          Nexi, AWS and the API on this machine, and one enrollment (ONCE=1: then stop; SIGNER=kms)'
	@echo 'make token        a fresh bearer token, while that runs (OPERATOR=anna.bianchi@example.com)'
	@echo 'make test         everything that CI checks'
	@echo 'make unit         the unit tests alone;  make integration  those against the local stack'
	@echo 'make soak         minutes of enrollments while everything fails at random (MINUTES, SEED, PHONES)'
	@echo 'make format       rewrite the code as make test wants it'
	@echo 'make build        the artefacts for Lambda, in .aws-sam/build'
	@echo 'make lock         compile the requirements anew'
	@echo 'make clean        forget all that was made here'

run: $(READY)
	@exec python -m sandbox run

token: $(READY)
	@exec python -m sandbox token

test: check-format lint types template unit integration

check-format: $(READY)
	ruff format --check $(CODE)

lint: $(READY)
	ruff check --no-fix $(CODE)

types: $(READY)
	mypy

template: $(READY)
	sam validate --lint

unit: $(READY)
	pytest tests/unit $(PARALLEL) --disable-socket --allow-unix-socket

# Minutes of every fault at random: MINUTES=3, SEED=…, PHONES=4.
soak: $(READY)
	@PYTHONPATH=layers/softpos exec python -m tests.soak

integration: $(READY)
	pytest tests/integration $(PARALLEL) --allow-hosts=127.0.0.1

format: $(READY)
	ruff check --fix $(CODE)
	ruff format $(CODE)

build: $(READY)
	sam build

$(READY): requirements/uv.txt requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'softpos: $(PYTHON) is older than 3.11; choose another: make PYTHON=python3.13 …' >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --require-hashes -r requirements/uv.txt
	.venv/bin/uv pip sync --quiet --compile-bytecode --python .venv --require-hashes requirements/uv.txt requirements/dev.txt
	@# The softpos command, as it stands in this checkout.
	.venv/bin/uv pip install --quiet --python .venv --no-deps --no-build-isolation --offline --editable .
	@touch $@

# Hashes and versions, and nobody's address. What ships takes its versions from what is tested.
COMPILE := uv pip compile --quiet --generate-hashes --no-emit-index-url --custom-compile-command 'make lock'
lock: $(READY)
	$(COMPILE) --universal --python-version 3.11 requirements/uv.in -o requirements/uv.txt
	$(COMPILE) --universal --python-version 3.11 requirements/dev.in -o requirements/dev.txt
	$(COMPILE) --python-platform aarch64-manylinux_2_28 --python-version 3.13 --only-binary :all: \
	  --constraint requirements/dev.txt layers/dependencies/requirements.in -o layers/dependencies/requirements.txt

clean:
	rm -rf .venv .aws-sam .mypy_cache .pytest_cache .ruff_cache
