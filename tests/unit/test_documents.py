"""The documents name tests as evidence. Each name must lead to a test that exists."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

REFERENCE = re.compile(r"`(?P<file>(?:[a-z0-9]+/)?test_\w+\.py)?(?P<path>(?:::\w+)*)`")
"""`unit/test_cache.py`, `unit/test_cache.py::TestSeal::test_x`, or `::test_x` of the file named last."""
BARE = re.compile(r"`((?:test|Test)_?\w+)`")
TESTS = {str(file.relative_to(ROOT / "tests")): file for file in (ROOT / "tests").rglob("*.py")}


@functools.cache
def names_in(file: Path) -> frozenset[str]:
    """Every class, function and method of a file, as `Class`, `function` and `Class::method`."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return frozenset(found)


def references(text: str) -> Iterator[tuple[str, str]]:
    """Each reference as a file below tests/ and a name in it; the name is empty where the file alone is cited."""
    file = ""
    for found in REFERENCE.finditer(text):
        file = found["file"] or file
        if found["file"] or found["path"]:
            yield file, found["path"].removeprefix("::")


def unresolved(text: str) -> list[str]:
    """The references of a document that lead nowhere."""
    missing = []
    for cited, name in references(text):
        files = [file for path, file in TESTS.items() if path == cited or path.endswith(f"/{cited}")]
        if not files or (name and name not in names_in(files[0])):
            missing.append(f"{cited}::{name}")
    everything = frozenset().union(*(names_in(file) for file in TESTS.values()))
    return missing + [name for name in BARE.findall(text) if name not in everything]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_each_test_that_a_document_cites_exists(document: Path) -> None:
    assert unresolved(document.read_text()) == []


def test_the_documents_cite_tests() -> None:
    """A changed notation would let every document pass."""
    cited = [each for document in DOCUMENTS for each in references(document.read_text())]
    assert len(cited) > 100


@pytest.mark.parametrize(
    "text",
    [
        "`unit/test_documents.py::test_that_is_missing`",
        "`test_documents.py`, `::test_that_is_missing`",
        "`unit/test_that_is_missing.py`",
        "`test_that_is_missing`",
    ],
)
def test_a_reference_to_a_missing_test_is_found(text: str) -> None:
    assert len(unresolved(text)) == 1
