"""`softpos terminals --stage local`, against the stack: found by its name, signed for, and the pool as it was after."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backends import Backend
from commands import Softpos

from onboarding import terminals
from sandbox.local import MPOS_TID, OPERATOR, POINT_OF_SALE, SOFTPOS_TID, LocalStack

PLACE = "cli"
SOMEONE = "cli+someone@example.com"
PAIRS = [{"point_of_sale": PLACE, "softpos_tid": f"C{at}", "mpos_tid": None} for at in range(5)]
FREE = [{**pair, "operator": None} for pair in PAIRS]


@pytest.fixture
def softpos(stack: LocalStack, tmp_path: Path) -> Softpos:
    return Softpos(stack, tmp_path)


@pytest.fixture
def pool(api: Backend) -> Iterator[Backend]:
    """The pool, which these tests leave as they found it."""
    before = listed(api)
    yield api
    for pair in api.back_office("GET", f"/v1/terminals?point_of_sale={PLACE}").json()["pairs"]:
        api.back_office("DELETE", f"/v1/terminals/{pair['softpos_tid']}/operator")
        api.back_office("DELETE", f"/v1/terminals/{pair['softpos_tid']}")
    assert listed(api) == before


def listed(api: Backend) -> Any:
    return api.back_office("GET", "/v1/terminals?limit=500").json()["pairs"]


def csv(*rows: str) -> bytes:
    return "\n".join(["point_of_sale,softpos_tid,mpos_tid", *rows, ""]).encode()


def test_a_pair_is_imported_assigned_moved_and_released(softpos: Softpos, pool: Backend) -> None:
    (softpos.folder / "pairs.csv").write_bytes(csv(*(f"{PLACE},C{at}," for at in range(5))))
    assert softpos("terminals", "import", "pairs.csv").out == "New in the pool: 5. There already: 0\n"
    assert softpos("terminals", "import", "pairs.csv").out == "New in the pool: 0. There already: 5\n"

    first = {**PAIRS[0], "operator": SOMEONE}
    assert softpos("terminals", "assign", SOMEONE, "--point-of-sale", PLACE, "--json").json == first
    assert softpos("terminals", "assign", SOMEONE, "C0", "--json").json == first
    held = softpos("terminals", "assign", SOMEONE, "C1")
    assert held.status == 1
    assert "operator_holds_terminal" in held.err
    assert softpos("terminals", "move", SOMEONE, "C2", "--json").json == {**PAIRS[2], "operator": SOMEONE}
    assert softpos("terminals", "list", "--operator", SOMEONE.upper(), "--json").json == [
        {**PAIRS[2], "operator": SOMEONE}
    ]
    free = softpos("terminals", "list", "--point-of-sale", PLACE, "--state", "free", "--json")
    assert free.json == [FREE[at] for at in (0, 1, 3, 4)]
    assert softpos("terminals", "release", "C2", "--json").json == FREE[2]
    assert softpos("terminals", "list", "--point-of-sale", PLACE, "--json").json == FREE


def test_the_list_is_the_pool_whatever_the_size_of_its_pages(
    softpos: Softpos, pool: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    softpos("terminals", "import", "-", stdin=json.dumps(PAIRS).encode())
    monkeypatch.setattr(terminals, "PAGE", 2)
    assert softpos("terminals", "list", "--point-of-sale", PLACE, "--json").json == FREE
    some = softpos("terminals", "list", "--point-of-sale", PLACE, "--limit", "3", "--json")
    assert some.json == FREE[:3]
    assert "more than these 3" in some.err


def test_the_table_shows_who_holds_what(softpos: Softpos) -> None:
    shown = softpos("terminals", "list", "--operator", OPERATOR).out.splitlines()
    assert [line.split() for line in shown[1:]] == [[POINT_OF_SALE, SOFTPOS_TID, MPOS_TID, OPERATOR]]


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_list_in_several_calls_is_imported_and_refused_in_its_own_places(
    kind: str, softpos: Softpos, pool: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminals, "MAX_PAIRS", 2)
    rows = [*PAIRS, {"point_of_sale": PLACE, "softpos_tid": SOFTPOS_TID}]
    as_csv = csv(*(f"{row['point_of_sale']},{row['softpos_tid']}," for row in rows))
    ended = softpos("terminals", "import", "-", stdin=as_csv if kind == "csv" else json.dumps(rows).encode())
    assert ended.status == 1
    assert "4 of 6 pairs are in the pool, 4 of them new; then it ended." in ended.err
    place = {"csv": "line 7", "json": "pairs[5]"}[kind]
    assert f"\n  {place}: has {SOFTPOS_TID}, which the pool has in another pair\n" in ended.err

    whole = softpos("terminals", "import", "-", stdin=json.dumps(PAIRS).encode())
    assert whole.out == "New in the pool: 1. There already: 4\n"


def test_a_refused_list_is_told_by_line(softpos: Softpos, pool: Backend) -> None:
    ended = softpos(
        "terminals", "import", "-", stdin=csv(f"{PLACE},C1,", f"{PLACE},,", f"{PLACE},C 3,", f"{PLACE},C1,")
    )
    assert ended.status == 1
    assert {line.partition(":")[0].strip(" ") for line in ended.err.splitlines() if line.startswith("  line")} == {
        "line 3",
        "line 4, softpos_tid",
        "line 5, softpos_tid",
    }
    assert re.search(r"\(pairs_refused, request \S+\)", ended.err)


def test_an_unknown_tid_is_told(softpos: Softpos) -> None:
    ended = softpos("terminals", "release", "nothing-like-it")
    assert ended.status == 1
    assert "terminal_unknown" in ended.err


def test_another_identity_is_told_that_it_lacks_the_policy(softpos: Softpos, monkeypatch: pytest.MonkeyPatch) -> None:
    # CloudFormation in the sandbox takes any; its API Gateway does not.
    monkeypatch.setattr("onboarding.deployment.LOCAL_CREDENTIALS", ("another", "another"))
    ended = softpos("terminals", "list")
    assert ended.status == 1
    assert "API Gateway answered 403 (Forbidden" in ended.err
    assert "attach the policy arn:aws:iam::" in ended.err


def test_no_proxy_of_the_environments_stands_before_the_sandbox(
    softpos: Softpos, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert softpos("terminals", "list", "--limit", "1").status == 0
