"""What may know what. Each rule is read out of the code itself, so that it holds for files that are yet to come."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYER = ROOT / "layers" / "softpos" / "softpos"
MODULES = sorted(LAYER.rglob("*.py"))
FUNCTIONS = sorted((ROOT / "functions").glob("*/*.py"))
ONBOARDING = sorted((ROOT / "onboarding").glob("*.py"))
HANDLERS = sorted((ROOT / "functions").glob("*/app.py"))


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), name_of(file))


def imported(file: Path) -> Iterator[str]:
    """Every module that a file names in an import, wherever in it that is; a relative one begins with a dot."""
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def top_level(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def texts(file: Path) -> Iterator[str]:
    """Every string of the code: its names, and its literals without the docstrings."""
    tree = tree_of(file)
    # A string that stands by itself documents something.
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def test_there_is_something_to_look_at() -> None:
    """A moved folder would let every rule below hold for nothing."""
    assert len(MODULES) > 10
    assert (ROOT / "functions" / "enrollment" / "app.py") in HANDLERS
    assert LAYER / "problems.py" in MODULES
    assert (ROOT / "onboarding" / "doctor.py") in ONBOARDING


@pytest.mark.parametrize("file", FUNCTIONS, ids=name_of)
def test_a_function_imports_softpos_and_the_standard_library_alone(file: Path) -> None:
    foreign = {each for each in imported(file) if top_level(each) not in {"softpos", *sys.stdlib_module_names}}
    assert foreign == set()


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_no_module_of_the_layer_imports_a_function_the_sandbox_or_a_test(file: Path) -> None:
    known = {top_level(each) for each in imported(file)}
    assert not known & {"onboarding", "sandbox", "functions", "app", "tests", "pytest", "moto", "joserfc", "hypothesis"}


@pytest.mark.parametrize("file", ONBOARDING, ids=name_of)
def test_the_softpos_command_imports_no_function_and_nothing_that_is_only_here(file: Path) -> None:
    """It is installed without them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[\[>=<]", each)[0] for each in project["dependencies"]} | {"botocore"}
    known = {each for each in imported(file) if not each.startswith("mypy_boto3")}
    foreign = {top_level(each) for each in known} - {"onboarding", "softpos", *sys.stdlib_module_names}
    assert foreign <= {each.replace("-", "_") for each in needed}


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_what_the_layer_imports_is_locked_for_it(file: Path) -> None:
    """Lambda has what requirements.txt of the dependencies' layer names, what its runtime brings, and nothing else."""
    distributions = {"jose": "python-jose", "aws_lambda_powertools": "aws-lambda-powertools"}
    locked = (ROOT / "layers" / "dependencies" / "requirements.txt").read_text()
    runtime = {each for each in imported(file) if not each.startswith(("mypy_boto3", "types_"))}
    brought = {"boto3", "botocore", "snapshot_restore_py"}
    foreign = {top_level(each) for each in runtime} - {"softpos", *brought, *sys.stdlib_module_names}
    missing = {each for each in foreign if f"\n{distributions.get(each, each)}==" not in f"\n{locked}"}
    assert missing == set()


@pytest.mark.parametrize("file", [each for each in MODULES if each.name != "problems.py"], ids=name_of)
def test_only_problems_knows_what_an_http_answer_of_ours_looks_like(file: Path) -> None:
    ours = {"statusCode", "requestContext", "isBase64Encoded", "HTTPStatus", "application/problem+json", "retry-after"}
    assert not ours & set(texts(file))
    assert "softpos.problems" not in set(imported(file))


@pytest.mark.parametrize("file", [each for each in MODULES if each.name not in ("telemetry.py",)], ids=name_of)
def test_only_telemetry_writes_to_the_log(file: Path) -> None:
    """Elsewhere a line could say anything; there is one place that says what may be in one."""
    assert "logging" not in set(imported(file))
    assert "print" not in set(texts(file))


@pytest.mark.parametrize("file", [each for each in MODULES if each.name != "settings.py"], ids=name_of)
def test_only_settings_reads_the_environment(file: Path) -> None:
    assert not {"environ", "getenv"} & set(texts(file))


@pytest.mark.parametrize("file", HANDLERS, ids=name_of)
def test_a_handler_fits_in_fifteen_lines(file: Path) -> None:
    (handler,) = (
        node for node in tree_of(file).body if isinstance(node, ast.FunctionDef) and node.name == "lambda_handler"
    )
    body = handler.body[1:] if ast.get_docstring(handler) else handler.body
    assert (body[-1].end_lineno or 0) - body[0].lineno + 1 <= 15


@pytest.mark.parametrize("file", HANDLERS, ids=name_of)
def test_a_handler_reads_no_environment_and_builds_nothing_when_imported(
    file: Path, code_on_path: dict[str, str]
) -> None:
    """In a fresh interpreter with no setting at all. boto3 comes with the first call: it costs more than all else."""
    program = (
        f"import json, sys; sys.path.insert(0, {str(file.parent)!r}); import app; print(json.dumps([*sys.modules]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(file.parent)], capture_output=True, text=True, check=True, env=code_on_path
    )
    loaded = set(json.loads(run.stdout))
    assert "softpos" in loaded
    # Powertools names itself in botocore's user agent, for which it imports botocore's first module: that one is small.
    assert not {"boto3", "botocore.session", "botocore.client"} & loaded
