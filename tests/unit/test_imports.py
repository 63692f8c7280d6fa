"""What importing a handler pulls in, as a list: cold starts grow by one import at a time, and a set, unlike a time,
is the same on every machine. docs/benchmarks.md has what it costs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FUNCTIONS = Path(__file__).parents[2] / "functions"

LOGGING = {"aws_lambda_powertools", "botocore", "jmespath", "softpos", "typing_extensions"}
"""Of every handler. Powertools names itself in botocore's user agent: of botocore, that is its first module alone."""
CRYPTOGRAPHY = {"_cffi_backend", "cryptography"}
NEXI = {*CRYPTOGRAPHY, "certifi", "charset_normalizer", "idna", "jose", "requests", "urllib3"}

PACKAGES = {
    "app_configuration": LOGGING | CRYPTOGRAPHY,
    "certificate_watch": LOGGING | CRYPTOGRAPHY,
    "encryption_keys": LOGGING | NEXI,
    "enrollment": LOGGING | NEXI,
    "sample_app": LOGGING | NEXI,
    "terminals": LOGGING,
    "token_refresh": LOGGING | NEXI,
}

RUNTIMES = {"simplejson", "snapshot_restore_py"}
"""What Lambda's runtime has imported or brings, and this machine may lack."""

HEAVY = {"asyncio", "concurrent", "ctypes", "multiprocessing", "pdb", "sqlite3", "unittest", "xml"}
"""Of the standard library, what takes milliseconds and is wanted by nobody here."""

MODULES = {"terminals": 200, "app_configuration": 290, "certificate_watch": 290}
"""The most of all modules, the interpreter's own included, with some room for the next version of each."""
MOST_MODULES = 520

PROGRAM = """
import json, sys
started = set(sys.modules)
sys.path.insert(0, sys.argv[1])
import app
# Extension modules put names of their own there, which no file has.
found = [name for name, module in sys.modules.items() if getattr(module, "__spec__", None) is not None]
print(json.dumps([sorted(set(found) - started), len(found)]))
"""


def names() -> list[str]:
    return sorted(file.parent.name for file in FUNCTIONS.glob("*/app.py"))


def test_every_handler_is_in_the_list() -> None:
    assert names() == sorted(PACKAGES)


@pytest.mark.parametrize("name", names())
def test_a_handler_imports_the_listed_packages_and_no_other(name: str, code_on_path: dict[str, str]) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, FUNCTIONS / name], capture_output=True, text=True, check=True, env=code_on_path
    )
    modules, count = json.loads(run.stdout)
    packages = {each.partition(".")[0] for each in modules} - {"app"}
    assert packages - sys.stdlib_module_names - RUNTIMES == PACKAGES[name]
    assert packages & HEAVY == set()
    assert count <= MODULES.get(name, MOST_MODULES)
