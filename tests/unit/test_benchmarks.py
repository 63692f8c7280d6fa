"""The benchmarks at their smallest: that they work, and that the page has every row. What they find is not tested."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import cost, report
from benchmarks.measure import Spread, number, ratio, take_turns

FAST = ["assertion", "day", "terminals"]
"""Those that start nothing and connect to nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("benchmarks")
    results = ["--results", str(made / "results.json"), "--docs", str(made / "docs")]
    benchmarks.main(["--size", "smallest", *results, *FAST])
    return made


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return loaded


def test_every_row_has_its_figures(results: dict[str, Any]) -> None:
    assert [row["name"] for row in results["rows"]] == FAST
    for row in results["rows"]:
        assert row["verdicts"]
        assert row["raw"]
        assert {len(line) for line in row["table"]} == {len(row["columns"])}


def test_the_page_has_every_row_and_every_target(folder: Path, results: dict[str, Any]) -> None:
    page = (folder / "docs" / "benchmarks.md").read_text()
    for row in results["rows"]:
        assert f"## {row['title']}\n" in page
        assert all(verdict["what"] in page for verdict in row["verdicts"])
    assert results["machine"]["processor"] in page
    for plot in (folder / "docs" / "benchmarks").glob("*.svg"):
        assert f"(benchmarks/{plot.name})" in page


def test_the_page_says_what_the_file_says_and_nothing_else(folder: Path, results: dict[str, Any]) -> None:
    assert report.page(results) == (folder / "docs" / "benchmarks.md").read_text()


def test_what_is_a_count_is_the_same_in_every_size(results: dict[str, Any]) -> None:
    """Of a day and of the terminals, the figures are no times: those can be held to their targets anywhere."""
    counted = [verdict for row in results["rows"] if row["name"] != "assertion" for verdict in row["verdicts"]]
    assert [verdict["what"] for verdict in counted if verdict["met"] is False] == []


def test_a_row_that_is_measured_again_takes_its_own_place(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text((folder / "results.json").read_text())
    benchmarks.main(["--size", "smallest", "--results", str(file), "--docs", str(tmp_path), "terminals"])
    assert [row["name"] for row in json.loads(file.read_text())["rows"]] == FAST


def test_the_committed_page_is_made_of_the_committed_figures() -> None:
    written = json.loads((benchmarks.ROOT / "benchmarks" / "results.json").read_text())
    assert (benchmarks.ROOT / "docs" / "benchmarks.md").read_text() == report.page(written)


def test_the_cost_is_the_sum_of_its_parts() -> None:
    row = cost.run({"raw": {"at once": {"softpos": [{"cpu": 5.0}]}}})
    total = sum(row.raw["costs"].values())
    assert [f"**${1e6 * total:.2f}**"] == [line[1] for line in row.table if line[0] == "**in all**"]


def test_a_ratio_is_of_medians_and_its_spread_of_rounds() -> None:
    samples = {"one": [2.0, 4.0, 6.0], "other": [1.0, 4.0, 3.0]}
    assert ratio(samples, "one", "other") == Spread(4 / 3, 1.5, 2.0)


def test_contestants_take_turns_and_nobody_is_always_first() -> None:
    called: list[str] = []
    samples = take_turns({name: lambda name=name: called.append(name) for name in "abc"}, rounds=3)  # type: ignore[misc]
    assert called == [*"abc", *"abc", *"bca", *"cab"]
    assert {name: len(each) for name, each in samples.items()} == {"a": 3, "b": 3, "c": 3}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (26.0, "26"), (0.0123, "0.012"), (0.5, "0.50"), (12.34, "12.3"), (123.4, "123"), (1234.5, "1,234")],
)
def test_numbers_have_three_figures(value: float, text: str) -> None:
    assert number(value) == text
