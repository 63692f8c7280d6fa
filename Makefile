# softpos. `make run` and `make test` need Python 3.11 or later, make and a package index, and nothing else.

PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONDONTWRITEBYTECODE := 1
export SAM_CLI_TELEMETRY := 0
# What the sandbox and the tests are must not depend on what the developer's shell exports for AWS.
unexport AWS_PROFILE AWS_REGION AWS_DEFAULT_REGION AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN

READY := .venv/ready
CODE := functions layers onboarding sandbox delivery benchmarks tests
# A file's tests share what is slow to make. Each worker has a local stack of its own.
PARALLEL := -n auto --dist loadfile

.PHONY: help run token invoke test format check-format lint types template unit integration e2e soak bench \
  build security workflows audit sbom artefact lock clean

help:
	@echo 'make run          Nexi, AWS and the API on this machine, and one enrollment (ONCE=1: then stop; SIGNER=kms)'
	@echo 'make token        a fresh bearer token, while that runs (OPERATOR=anna.bianchi@example.com)'
	@echo 'make invoke       a function with EVENT=events/….json, while that runs: its log, and its result (FUNCTION)'
	@echo 'make test         everything that CI checks'
	@echo 'make unit         the unit tests alone;  make integration  those against the local stack'
	@echo 'make e2e          the built artefacts, run the way Lambda runs them, and looked into'
	@echo 'make soak         minutes of enrollments while everything fails at random (MINUTES, SEED, PHONES)'
	@echo 'make bench        where we stand, into docs/benchmarks.md: minutes, on a quiet machine (SIZE=smallest, ROWS)'
	@echo 'make format       rewrite the code as make test wants it'
	@echo 'make build        the artefacts for Lambda, in .aws-sam/build'
	@echo 'make security     checkov for the templates, zizmor for the workflows;  make workflows  actionlint, with Go'
	@echo 'make audit        known vulnerabilities of what ships and of the tools, from PyPI'
	@echo 'make sbom         what ships, as CycloneDX, in dist;  make artefact  that and the build, as delivered'
	@echo 'make lock         compile the requirements anew'
	@echo 'make clean        forget all that was made here'

run: $(READY)
	@exec python -m sandbox run

token: $(READY)
	@exec python -m sandbox token

invoke: $(READY)
	@exec python -m sandbox invoke

test: check-format lint types template unit integration

check-format: $(READY)
	ruff format --check $(CODE)

lint: $(READY)
	ruff check --no-fix $(CODE)

types: $(READY)
	mypy

template: $(READY)
	sam validate --lint
	cfn-lint

unit: $(READY)
	pytest tests/unit $(PARALLEL) --disable-socket --allow-unix-socket

# Minutes of every fault at random: MINUTES=3, SEED=…, PHONES=4.
soak: $(READY)
	@PYTHONPATH=layers/softpos exec python -m tests.soak

# All rows, or some: ROWS='assertion warm'. Raw figures go to benchmarks/results.json.
SIZE := usual
bench: .venv-bench/ready
	@PYTHONPATH=layers/softpos exec .venv-bench/bin/python -m benchmarks --size $(SIZE) $(ROWS)

integration: $(READY)
	pytest tests/integration $(PARALLEL) --allow-hosts=127.0.0.1

# One process: the artefacts are built once, for Lambda and for this machine.
e2e: $(READY)
	pytest tests/e2e --allow-hosts=127.0.0.1

format: $(READY)
	ruff check --fix $(CODE)
	ruff format $(CODE)

build: $(READY)
	sam build

# ---------------------------------------------------------------- for delivery, and not in make test

security: .venv-security/ready
	.venv-security/bin/python delivery/findings.py
	.venv-security/bin/zizmor --offline --no-progress --persona pedantic .github

# actionlint is a Go module: Go's checksum database vouches for the version. shellcheck reads the scripts for it.
ACTIONLINT := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
workflows: .venv-security/ready
	@command -v go >/dev/null || { echo 'softpos: actionlint is built with Go, which is not on the path' >&2; exit 1; }
	go run $(ACTIONLINT) -shellcheck .venv-security/bin/shellcheck

# The one exception is python-jose's dependency ecdsa: CVE-2024-23342, Minerva, by which the timing of many signatures
# gives an ECDSA key away. There is no ECDSA here: the assertion is signed with RSA, by python-jose's backend that is
# cryptography, and ecdsa signs nothing. Its maintainers will not mend it, so there is no version to wait for.
EXCEPTIONS := --ignore-vuln GHSA-wj6h-64fc-37mp --ignore-vuln PYSEC-2026-1325
# Strict: a package of which nothing could be learned is a failure. Without it, an index that does not answer is a pass.
AUDIT := .venv-audit/bin/pip-audit --strict --progress-spinner off --disable-pip --require-hashes $(EXCEPTIONS)
audit: .venv-audit/ready
	$(AUDIT) --requirement layers/dependencies/requirements.txt
	$(AUDIT) --requirement requirements/dev.txt

sbom: .venv-audit/ready
	@mkdir -p dist
	.venv-audit/bin/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application --output-reproducible \
	  --spec-version 1.6 --output-format JSON --output-file dist/sbom.cdx.json --validate \
	  layers/dependencies/requirements.txt

# What is deployed to each stage: built once, and told by its SHA-256. The same files make the same archive.
artefact: build sbom
	tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf dist/softpos.tar .aws-sam/build dist/sbom.cdx.json
	gzip --no-name --force dist/softpos.tar
	cd dist && sha256sum softpos.tar.gz > softpos.tar.gz.sha256

$(READY): requirements/uv.txt requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'softpos: $(PYTHON) is older than 3.11; choose another: make PYTHON=python3.13 …' >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --require-hashes -r requirements/uv.txt
	.venv/bin/uv pip sync --quiet --compile-bytecode --python .venv --require-hashes requirements/uv.txt requirements/dev.txt
	@# The softpos command, as it stands in this checkout.
	.venv/bin/uv pip install --quiet --python .venv --no-deps --no-build-isolation --offline --editable .
	@touch $@

# Tools that do not go together with what is tested have an environment each.
.venv-%/ready: requirements/uv.txt requirements/%.txt
	$(PYTHON) -m venv --clear .venv-$*
	.venv-$*/bin/python -m pip install --quiet --require-hashes -r requirements/uv.txt
	.venv-$*/bin/uv pip sync --quiet --compile-bytecode --python .venv-$* --require-hashes \
	  requirements/uv.txt requirements/$*.txt
	@touch $@

# Hashes and versions, and nobody's address. What ships takes its versions from what is tested.
COMPILE := uv pip compile --quiet --generate-hashes --no-emit-index-url --custom-compile-command 'make lock'
lock: $(READY)
	$(COMPILE) --universal --python-version 3.11 requirements/uv.in -o requirements/uv.txt
	$(COMPILE) --universal --python-version 3.11 requirements/dev.in -o requirements/dev.txt
	$(COMPILE) --universal --python-version 3.11 --constraint requirements/dev.txt requirements/bench.in \
	  -o requirements/bench.txt
	$(COMPILE) --universal --python-version 3.11 requirements/security.in -o requirements/security.txt
	$(COMPILE) --universal --python-version 3.11 requirements/audit.in -o requirements/audit.txt
	$(COMPILE) --python-platform aarch64-manylinux_2_28 --python-version 3.13 --only-binary :all: \
	  --constraint requirements/dev.txt layers/dependencies/requirements.in -o layers/dependencies/requirements.txt

clean:
	rm -rf .venv .venv-* .aws-sam dist .mypy_cache .pytest_cache .ruff_cache
