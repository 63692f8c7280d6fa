"""The handler of /v1/terminals, on the events in events/, over the real registry on moto's DynamoDB."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from botocore.exceptions import ClientError
from handlers import (
    EVENTS,
    INVOCATION,
    OPERATOR,
    SECOND_OPERATOR,
    UNTOUCHED,
    Context,
    Event,
    Pool,
    assert_like_api_gateways,
    holders,
    invoke,
    load_event,
    load_function,
    problem_of,
    registry_of,
    told,
    with_body,
    without_authorizer,
    wrong_members,
)
from moto import mock_aws
from unit_support import Lines

from softpos import terminals
from softpos.errors import MisconfiguredError
from softpos.terminals import Assignment, TerminalRegistry

CALLER = "arn:aws:sts::123456789012:assumed-role/BackOffice/back-office"
NOT_AN_IDENTIFIER = "is not 1 to 32 of letters, digits, dot, dash and underscore"

FIRST = {"point_of_sale": "00012345", "softpos_tid": "30000001", "mpos_tid": "40000001", "operator": OPERATOR}
SECOND = {"point_of_sale": "00012345", "softpos_tid": "30000002", "mpos_tid": "40000002", "operator": None}
THIRD = {"point_of_sale": "00012345", "softpos_tid": "30000003", "mpos_tid": None, "operator": None}
ELSEWHERE = {"point_of_sale": "00067890", "softpos_tid": "30000004", "mpos_tid": None, "operator": None}

Handle = Callable[..., dict[str, Any]]


def load(name: str) -> Event:
    return load_event(f"terminals-{name}")


def listing(**query: str) -> Event:
    return {**load("listed"), "queryStringParameters": query}


def at(name: str, tid: str) -> Event:
    """The event for another TID."""
    return {**load(name), "pathParameters": {"tid": tid}}


def importing(content_type: str, body: Any) -> Event:
    event = with_body(load("imported-from-csv"), body)
    return {**event, "headers": {**event["headers"], "content-type": content_type}}


def in_base64(event: Event, content: bytes | None = None) -> Event:
    encoded = base64.b64encode(event["body"].encode() if content is None else content).decode()
    return {**event, "body": encoded, "isBase64Encoded": True}


class Unruly:
    """A DynamoDB that does what moto's does, but for the calls that it was told to fail, or that moto lets pass."""

    def __init__(self, dynamodb: Any, **failures: str) -> None:
        self._dynamodb = dynamodb
        self._failures = failures

    def __getattr__(self, operation: str) -> Any:
        def call(**arguments: Any) -> Any:
            if operation in self._failures:
                answer: Any = {"Error": {"Code": self._failures[operation], "Message": "s3cr3t"}}
                raise ClientError(answer, operation)
            # DynamoDB's limit for a sort key, which moto knows for writing alone.
            if len(arguments.get("Key", {}).get("sk", {}).get("S", "").encode()) > 1024:
                raise ClientError({"Error": {"Code": "ValidationException", "Message": "too long"}}, operation)
            return getattr(self._dynamodb, operation)(**arguments)

        return call


@pytest.fixture(scope="module")
def function() -> ModuleType:
    return load_function("terminals")


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with mock_aws():
        yield Pool()


@pytest.fixture
def dynamodb(pool: Pool) -> Any:
    """DynamoDB, with FIRST to ELSEWHERE in its table `terminals`."""
    return pool.put_back()


@pytest.fixture
def registry(dynamodb: Any, monkeypatch: pytest.MonkeyPatch) -> TerminalRegistry:
    registry = registry_of(dynamodb)
    monkeypatch.setattr(terminals, "registry", lambda: registry)
    return registry


@pytest.fixture
def handle(function: ModuleType, registry: TerminalRegistry) -> Handle:
    return lambda event, context=None: invoke(function, event, context)


def answered(answer: dict[str, Any], status: int = 200) -> Any:
    """The body of an answer that is no problem."""
    assert answer["statusCode"] == status
    assert answer["headers"] == {"content-type": "application/json", "cache-control": "no-store"}
    return json.loads(answer["body"])


class TestAnImport:
    @pytest.mark.parametrize("name", ["imported-from-csv", "imported-from-csv-in-base64"])
    def test_pairs_come_in_as_csv(self, handle: Handle, registry: TerminalRegistry, name: str) -> None:
        """With commas or semicolons, and a byte order mark, as spreadsheets write it."""
        for tid in ("30000002", "30000003", "30000004"):
            registry.delete(tid)
        assert answered(handle(load(name))) == {"imported": 3, "unchanged": 1}
        assert holders(registry) == UNTOUCHED

    def test_pairs_come_in_as_json(self, handle: Handle, registry: TerminalRegistry) -> None:
        assert answered(handle(load("imported-from-json"))) == {"imported": 2, "unchanged": 1}
        assert holders(registry) == {**UNTOUCHED, "30000005": None, "40000006": None}

    def test_again_it_changes_nothing(self, handle: Handle, registry: TerminalRegistry) -> None:
        handle(load("imported-from-json"))
        assert answered(handle(load("imported-from-json"))) == {"imported": 0, "unchanged": 3}
        assert answered(handle(load("imported-from-csv"))) == {"imported": 0, "unchanged": 4}

    @pytest.mark.parametrize(
        "event",
        [
            pytest.param(importing("text/csv", "point_of_sale,mpos_tid\n1,2\n"), id="csv"),
            pytest.param(importing("text/csv; charset=utf-8", "mpos_tid;point_of_sale\n2;1"), id="csv-with-charset"),
            pytest.param(importing(" TEXT/CSV ;header=present", "point_of_sale,mpos_tid\n1,2"), id="csv-in-capitals"),
            pytest.param(in_base64(importing("text/csv", "point_of_sale,mpos_tid\n1,2")), id="csv-in-base64"),
            pytest.param(
                importing("application/json", {"pairs": [{"point_of_sale": "1", "mpos_tid": "2"}]}), id="json"
            ),
            pytest.param(
                in_base64(importing("application/json", {"pairs": [{"point_of_sale": "1", "mpos_tid": "2"}]})),
                id="json-in-base64",
            ),
            pytest.param(
                importing("text/plain", {"pairs": [{"point_of_sale": "1", "mpos_tid": "2"}]}), id="json-by-any-name"
            ),
        ],
    )
    def test_the_content_type_says_which(self, handle: Handle, registry: TerminalRegistry, event: Event) -> None:
        assert answered(handle(event)) == {"imported": 1, "unchanged": 0}
        assert holders(registry) == {**UNTOUCHED, "2": None}

    def test_without_a_content_type_it_is_json(self, handle: Handle) -> None:
        event = load("imported-from-json")
        event["headers"] = {name: value for name, value in event["headers"].items() if name != "content-type"}
        assert answered(handle(event))["imported"] == 2

    def test_all_that_is_wrong_is_told_at_once_and_nothing_is_half_done(
        self, handle: Handle, registry: TerminalRegistry, lines: Lines
    ) -> None:
        answer = handle(load("import-refused"))
        assert told(answer) == (422, "pairs_refused")
        assert wrong_members(answer) == {
            "line 3": "has 30000002, which the pool has in another pair",
            "line 4, point_of_sale": "is missing",
            "line 5": "has neither a softpos_tid nor an mpos_tid",
            "line 6, softpos_tid": NOT_AN_IDENTIFIER,
            "line 7, mpos_tid": "is the softpos_tid",
            "line 8, softpos_tid": "is in line 2, too",
        }
        assert problem_of(answer)["detail"] == "See errors. Nothing was imported."
        assert holders(registry) == UNTOUCHED
        assert (lines.only()["level"], lines.only()["code"]) == ("WARNING", "pairs_refused")

    @pytest.mark.parametrize(
        ("event", "wrong"),
        [
            pytest.param(
                load("import-without-columns"),
                {"line 1": "does not name the columns point_of_sale, softpos_tid, mpos_tid, and no other"},
                id="csv-without-columns",
            ),
            pytest.param(
                importing("text/csv", "point_of_sale,mpos_tid\n"), {"body": "holds no pair"}, id="csv-of-no-pair"
            ),
            pytest.param(
                importing("text/csv", 'point_of_sale,mpos_tid\n1,"2'), {"line 2": "is not CSV"}, id="csv-cut-short"
            ),
            pytest.param(importing("text/csv", ""), {"body": "is missing"}, id="csv-empty"),
            pytest.param(
                in_base64(load("imported-from-csv"), "point_of_sale,mpos_tid\n1,città".encode("latin-1")),
                {"body": "is not text in UTF-8"},
                id="csv-in-latin-1",
            ),
            pytest.param(
                {**load("imported-from-csv"), "isBase64Encoded": True}, {"body": "is not text in UTF-8"}, id="no-base64"
            ),
            pytest.param(importing("application/json", ""), {"body": "is missing"}, id="json-empty"),
            pytest.param(
                importing("application/json", "point_of_sale,mpos_tid\n1,2"), {"body": "is not JSON"}, id="csv-as-json"
            ),
            pytest.param(importing("application/json", []), {"body": "is not a JSON object"}, id="json-an-array"),
            pytest.param(importing("application/json", {}), {"pairs": "is missing"}, id="json-without-pairs"),
            pytest.param(
                importing("application/json", {"pairs": {}, "mode": "replace", "dry_run": True}),
                {"dry_run": "is not known here", "mode": "is not known here", "pairs": "is not a list"},
                id="json-several-wrong",
            ),
            pytest.param(importing("application/json", {"pairs": []}), {"body": "holds no pair"}, id="json-of-no-pair"),
            pytest.param(
                importing(
                    "application/json",
                    {"pairs": [{"point_of_sale": "1", "mpos_tid": f"{tid}"} for tid in range(1001)]},
                ),
                {"body": "holds more than 1000 pairs"},
                id="json-of-too-many",
            ),
        ],
    )
    def test_what_is_no_list_of_pairs_is_refused(
        self, handle: Handle, registry: TerminalRegistry, lines: Lines, event: Event, wrong: dict[str, str]
    ) -> None:
        answer = handle(event)
        assert told(answer) == (400, "invalid_request")
        assert wrong_members(answer) == wrong
        assert holders(registry) == UNTOUCHED
        assert lines.only()["level"] == "WARNING"

    def test_its_line_says_how_many_and_by_whom(self, handle: Handle, lines: Lines) -> None:
        handle(load("imported-from-json"))
        line = lines.only()
        assert (line["imported"], line["unchanged"]) == (2, 1)
        assert (line["route"], line["caller"]) == ("POST /v1/terminals", CALLER)

    @pytest.mark.parametrize(
        "event",
        [
            pytest.param(
                importing("application/json", {"pairs": [{"pos": 1, "tid": n, "mpos": 2} for n in range(1000)]}),
                id="every-pair-misspelt",
            ),
            pytest.param(
                importing("application/json", {f"{n:040}": 0 for n in range(50_000)}), id="fifty-thousand-members"
            ),
            pytest.param(
                importing("application/json", {"pairs": [{f"{n:040}": 0 for n in range(50_000)}]}),
                id="a-pair-of-fifty-thousand-members",
            ),
        ],
    )
    def test_a_refusal_is_never_too_long_to_be_answered_and_logged(
        self, handle: Handle, lines: Lines, event: Event
    ) -> None:
        """Lambda hands over no more than 6 MB, and CloudWatch takes no line of more than 1 MB."""
        assert len(event["body"]) < 6_000_000
        answer = handle(event)
        assert answer["statusCode"] in (400, 422)
        assert len(answer["body"]) < 6_000_000
        assert len(lines.text.encode()) < 1_000_000


class TestTheList:
    def test_it_is_the_whole_pool_by_point_of_sale_and_tid(self, handle: Handle) -> None:
        assert answered(handle(load("listed"))) == {"pairs": [FIRST, SECOND, THIRD, ELSEWHERE], "after": None}

    @pytest.mark.parametrize(
        ("query", "pairs"),
        [
            pytest.param({"state": "free"}, [SECOND, THIRD, ELSEWHERE], id="free"),
            pytest.param({"state": "held"}, [FIRST], id="held"),
            pytest.param({"point_of_sale": "00067890"}, [ELSEWHERE], id="a-point-of-sale"),
            pytest.param({"point_of_sale": "0001234"}, [], id="the-beginning-of-a-point-of-sale"),
            pytest.param({"point_of_sale": "00012345", "state": "held"}, [FIRST], id="both"),
            pytest.param({"operator": OPERATOR}, [FIRST], id="an-operator"),
            pytest.param({"operator": SECOND_OPERATOR}, [], id="an-operator-without-terminal"),
            pytest.param({"limit": "500"}, [FIRST, SECOND, THIRD, ELSEWHERE], id="the-highest-limit"),
        ],
    )
    def test_it_can_be_filtered(self, handle: Handle, query: dict[str, str], pairs: list[Any]) -> None:
        assert answered(handle(listing(**query))) == {"pairs": pairs, "after": None}

    def test_an_operator_is_found_in_any_casing_and_shown_in_one(self, handle: Handle) -> None:
        assert answered(handle(load("listed-of-an-operator"))) == {"pairs": [FIRST], "after": None}

    def test_what_is_left_over_is_after_what_the_answer_says(self, handle: Handle) -> None:
        first = answered(handle(load("listed-free-at-a-point-of-sale")))
        assert first["pairs"] == [SECOND]
        query = {"point_of_sale": "00012345", "state": "free", "limit": "1", "after": first["after"]}
        assert answered(handle(listing(**query))) == {"pairs": [THIRD], "after": None}

    def test_after_goes_on_where_it_was(self, handle: Handle) -> None:
        assert answered(handle(load("listed-after"))) == {"pairs": [THIRD, ELSEWHERE], "after": None}

    @pytest.mark.parametrize("limit", [1, 2, 3, 4])
    def test_pages_are_the_list_whatever_their_length(self, handle: Handle, limit: int) -> None:
        pairs, after, pages = [], {}, 0
        while pages == 0 or after:
            page = answered(handle(listing(limit=str(limit), **after)))
            pages += 1
            assert len(page["pairs"]) <= limit
            pairs += page["pairs"]
            after = {"after": page["after"]} if page["after"] else {}
        assert pairs == [FIRST, SECOND, THIRD, ELSEWHERE]
        # No empty one at the end.
        assert pages == -(-len(pairs) // limit)

    def test_after_may_be_of_a_pair_that_is_gone(self, handle: Handle, registry: TerminalRegistry) -> None:
        page = answered(handle(listing(limit="2")))
        registry.delete("30000002")
        assert answered(handle(listing(after=page["after"])))["pairs"] == [THIRD, ELSEWHERE]

    def test_a_hundred_are_a_page_if_nobody_says_otherwise(self, handle: Handle) -> None:
        hundred = [{"point_of_sale": "1", "softpos_tid": f"{tid:08}"} for tid in range(100)]
        handle(importing("application/json", {"pairs": hundred}))
        page = answered(handle(load("listed")))
        assert len(page["pairs"]) == 100
        assert page["after"]

    def test_all_that_is_wrong_with_the_query_is_told_at_once(self, handle: Handle, lines: Lines) -> None:
        answer = handle(load("list-several-wrong"))
        assert told(answer) == (400, "invalid_request")
        assert wrong_members(answer) == {
            "offset": "is not known here",
            "operator": "is not an e-mail",
            "point_of_sale": NOT_AN_IDENTIFIER,
            "state": "is neither free nor held",
            "limit": "is not a number from 1 to 500",
            "after": "is not what an earlier answer said",
        }
        assert lines.only()["level"] == "WARNING"

    @pytest.mark.parametrize(
        "limit", ["0", "501", "abc", "", "-1", "+1", "1.5", "01", " 1", "1\n", "1e2", "1,2", "٣", "9" * 5000]
    )
    def test_a_limit_is_a_number_from_1_to_500(self, handle: Handle, limit: str) -> None:
        assert wrong_members(handle(listing(limit=limit))) == {"limit": "is not a number from 1 to 500"}

    @pytest.mark.parametrize(
        "after",
        [
            pytest.param("", id="empty"),
            pytest.param("00012345#30000002", id="not-base64"),
            pytest.param("MDAwMTIzNDUjMzAwMDAwMDI", id="cut-short"),
            pytest.param(base64.b64encode(b"00012345").decode(), id="of-one-part"),
            pytest.param(base64.b64encode(b"00012345#").decode(), id="of-no-tid"),
            pytest.param(base64.b64encode(b"#30000002").decode(), id="of-no-point-of-sale"),
            pytest.param(base64.b64encode(b"1#2#3").decode(), id="of-three-parts"),
            pytest.param(base64.b64encode(b"1#" + b"2" * 33).decode(), id="of-a-tid-that-could-not-exist"),
            pytest.param(base64.b64encode("1#è".encode()).decode(), id="beyond-ascii"),
            pytest.param(base64.b64encode(b"\xff#\xff").decode(), id="of-no-text"),
            pytest.param("è", id="beyond-ascii-itself"),
        ],
    )
    def test_an_after_that_no_answer_said_is_refused(self, handle: Handle, after: str) -> None:
        assert wrong_members(handle(listing(after=after))) == {"after": "is not what an earlier answer said"}

    @pytest.mark.parametrize("state", ["", "Free", "free,held", "all"])
    def test_a_state_is_free_or_held(self, handle: Handle, state: str) -> None:
        assert wrong_members(handle(listing(state=state))) == {"state": "is neither free nor held"}

    @pytest.mark.parametrize("other", [{"state": "held"}, {"point_of_sale": "00012345"}, {"limit": "1"}])
    def test_an_operator_goes_with_no_other_parameter(self, handle: Handle, other: dict[str, str]) -> None:
        answer = handle(listing(operator=OPERATOR, **other))
        assert told(answer) == (400, "invalid_request")
        assert wrong_members(answer) == {"operator": "goes with no other parameter"}


class TestAPair:
    @pytest.mark.parametrize(
        ("tid", "pair"),
        [
            pytest.param("30000001", FIRST, id="by-its-softpos-tid"),
            pytest.param("40000001", FIRST, id="by-its-mpos-tid"),
            pytest.param("30000003", THIRD, id="free"),
        ],
    )
    def test_it_is_shown_by_any_of_its_tids(self, handle: Handle, tid: str, pair: dict[str, Any]) -> None:
        assert answered(handle(at("shown", tid))) == pair

    def test_it_is_shown_to_the_letter(self, handle: Handle) -> None:
        assert handle(load("shown"))["body"] == (
            '{"point_of_sale": "00012345", "softpos_tid": "30000001", "mpos_tid": "40000001", '
            '"operator": "mario.rossi@example.com"}'
        )

    def test_it_is_deleted(self, handle: Handle, registry: TerminalRegistry) -> None:
        assert handle(load("deleted")) == {
            "statusCode": 204,
            "headers": {"cache-control": "no-store"},
            "body": "",
            "isBase64Encoded": False,
        }
        assert holders(registry) == {tid: held for tid, held in UNTOUCHED.items() if tid != "30000003"}
        assert told(handle(load("deleted"))) == (404, "terminal_unknown")

    def test_while_it_is_held_it_is_not_deleted(self, handle: Handle, registry: TerminalRegistry) -> None:
        assert told(handle(load("delete-refused-while-held"))) == (409, "terminal_held")
        assert holders(registry) == UNTOUCHED

    def test_it_is_released_and_stays_so(self, handle: Handle, registry: TerminalRegistry) -> None:
        for _ in range(2):
            assert answered(handle(load("released"))) == {**FIRST, "operator": None}
        assert holders(registry) == {**UNTOUCHED, "30000001": None}


class TestAnAssignment:
    def test_a_pair_is_assigned_and_stays_so(self, handle: Handle, registry: TerminalRegistry) -> None:
        for _ in range(2):
            assert answered(handle(load("assigned"))) == {**SECOND, "operator": SECOND_OPERATOR}
        assert holders(registry) == {**UNTOUCHED, "30000002": SECOND_OPERATOR}

    def test_the_first_spelling_of_the_operator_stays(self, handle: Handle, registry: TerminalRegistry) -> None:
        """Nexi compares it with what the SDK was given."""
        event = with_body(at("assigned", "40000001"), {"operator": OPERATOR.upper()})
        assert answered(handle(event)) == FIRST
        assert holders(registry) == UNTOUCHED

    @pytest.mark.parametrize(
        ("event", "code"),
        [
            pytest.param(load("assign-refused-held-by-another"), "terminal_held", id="held-by-another"),
            pytest.param(
                load("assign-refused-operator-holds-another"), "operator_holds_terminal", id="operator-holds-another"
            ),
            pytest.param(
                with_body(load("assigned"), {"operator": "MARIO.rossi@EXAMPLE.com"}),
                "operator_holds_terminal",
                id="operator-holds-another-in-capitals",
            ),
            pytest.param(
                with_body(load("first-free-assigned"), {"operator": OPERATOR, "point_of_sale": "00067890"}),
                "operator_holds_terminal",
                id="operator-holds-one-elsewhere",
            ),
            pytest.param(load("none-free"), "no_terminal_free", id="none-free"),
        ],
    )
    def test_what_cannot_be_is_a_conflict(
        self, handle: Handle, registry: TerminalRegistry, lines: Lines, event: Event, code: str
    ) -> None:
        assert told(handle(event)) == (409, code)
        assert holders(registry) == UNTOUCHED
        assert (lines.only()["level"], lines.only()["code"]) == ("WARNING", code)

    def test_the_first_free_one_of_a_point_of_sale_is_given(self, handle: Handle, registry: TerminalRegistry) -> None:
        for _ in range(2):
            assert answered(handle(load("first-free-assigned"))) == {**ELSEWHERE, "operator": SECOND_OPERATOR}
        assert holders(registry) == {**UNTOUCHED, "30000004": SECOND_OPERATOR}

    @pytest.mark.parametrize("anywhere", [{}, {"point_of_sale": None}], ids=["absent", "null"])
    def test_the_first_free_one_of_all_is_given_where_none_is_named(
        self, handle: Handle, anywhere: dict[str, Any]
    ) -> None:
        event = with_body(load("first-free-assigned"), {"operator": SECOND_OPERATOR, **anywhere})
        assert answered(handle(event)) == {**SECOND, "operator": SECOND_OPERATOR}

    def test_a_body_in_base64_is_read(self, handle: Handle) -> None:
        assert answered(handle(in_base64(load("assigned"))))["operator"] == SECOND_OPERATOR


class TestAMove:
    @pytest.mark.parametrize(
        ("name", "moved"),
        [
            pytest.param("moved-to-a-pair", THIRD, id="to-a-pair"),
            pytest.param("moved-to-a-point-of-sale", ELSEWHERE, id="to-a-point-of-sale"),
        ],
    )
    def test_an_operator_leaves_one_pair_for_another(
        self, handle: Handle, registry: TerminalRegistry, name: str, moved: dict[str, Any]
    ) -> None:
        for _ in range(2):
            assert answered(handle(load(name))) == {**moved, "operator": OPERATOR}
        assert holders(registry) == {**UNTOUCHED, "30000001": None, moved["softpos_tid"]: OPERATOR}

    @pytest.mark.parametrize(
        ("event", "status", "code"),
        [
            pytest.param(
                load("move-refused-operator-without-terminal"), 409, "terminal_not_assigned", id="operator-holds-none"
            ),
            pytest.param(
                with_body(load("moved-to-a-pair"), {"operator": OPERATOR, "tid": "99999999"}),
                404,
                "terminal_unknown",
                id="to-an-unknown-pair",
            ),
            pytest.param(
                with_body(load("moved-to-a-point-of-sale"), {"operator": OPERATOR, "point_of_sale": "00099999"}),
                409,
                "no_terminal_free",
                id="to-where-none-is-free",
            ),
        ],
    )
    def test_one_that_fails_moves_nobody(
        self, handle: Handle, registry: TerminalRegistry, event: Event, status: int, code: str
    ) -> None:
        assert told(handle(event)) == (status, code)
        assert holders(registry) == UNTOUCHED

    def test_one_to_what_another_holds_moves_nobody(self, handle: Handle, registry: TerminalRegistry) -> None:
        registry.assign(SECOND_OPERATOR, "30000003")
        assert told(handle(load("moved-to-a-pair"))) == (409, "terminal_held")
        assert holders(registry) == {**UNTOUCHED, "30000003": SECOND_OPERATOR}

    @pytest.mark.parametrize(
        "event",
        [
            pytest.param(load("move-without-a-target"), id="none"),
            pytest.param(
                with_body(
                    load("moved-to-a-pair"), {"operator": OPERATOR, "tid": "30000003", "point_of_sale": "00067890"}
                ),
                id="two",
            ),
        ],
    )
    def test_it_has_one_target(self, handle: Handle, registry: TerminalRegistry, event: Event) -> None:
        answer = handle(event)
        assert told(answer) == (400, "invalid_request")
        assert wrong_members(answer) == {"tid": "is to be there, or point_of_sale, and not both"}
        assert holders(registry) == UNTOUCHED


BODIES = [
    pytest.param(
        load("assign-several-wrong"),
        {"force": "is not known here", "tid": "is not known here", "operator": "is not an e-mail"},
        id="assign-several-wrong",
    ),
    pytest.param(
        with_body(load("first-free-assigned"), {"point_of_sale": "", "state": "free"}),
        {"state": "is not known here", "operator": "is missing", "point_of_sale": NOT_AN_IDENTIFIER},
        id="assign-first-several-wrong",
    ),
    pytest.param(
        with_body(load("moved-to-a-pair"), {"operator": 7, "tid": ["30000003"], "point_of_sale": "x" * 33, "to": "x"}),
        {
            "to": "is not known here",
            "operator": "is not an e-mail",
            "tid": NOT_AN_IDENTIFIER,
            "point_of_sale": NOT_AN_IDENTIFIER,
        },
        id="move-several-wrong",
    ),
    *(
        pytest.param(with_body(load("assigned"), {"operator": operator}), {"operator": "is not an e-mail"}, id=each)
        for each, operator in {
            "operator-null": None,
            "operator-without-at": "anna",
            "operator-with-a-blank": "anna @example.com",
            "operator-with-a-line-break": "anna@example.com\n",
            "operator-too-long": "a" * 243 + "@example.com",
            "operator-with-a-kelvin-sign": "\u212aevin@example.com",
            "operator-half-a-surrogate-pair": "\ud800@example.com",
        }.items()
    ),
    *(
        pytest.param({**load(name), "body": body}, {"body": reason}, id=f"{name}-body-{each}")
        for name in ("assigned", "first-free-assigned", "moved-to-a-pair")
        for each, body, reason in (
            ("absent", None, "is missing"),
            ("not-json", "operator=anna@example.com", "is not JSON"),
            ("null", "null", "is not a JSON object"),
        )
    ),
]


class TestAWrongBody:
    @pytest.mark.parametrize(("event", "wrong"), BODIES)
    def test_it_is_told_all_that_is_wrong_and_nothing_is_done(
        self, handle: Handle, registry: TerminalRegistry, lines: Lines, event: Event, wrong: dict[str, str]
    ) -> None:
        answer = handle(event)
        assert told(answer) == (400, "invalid_request")
        assert wrong_members(answer) == wrong
        assert holders(registry) == UNTOUCHED
        assert (lines.only()["level"], lines.only()["code"]) == ("WARNING", "invalid_request")

    def test_values_are_repeated_to_nobody(self, handle: Handle, lines: Lines) -> None:
        answer = handle(with_body(load("assigned"), {"operator": "s3cr3t", "password": "s3cr3t"}))
        assert "s3cr3t" not in answer["body"] + lines.text


OF_A_TID = ("shown", "deleted", "assigned", "released")


class TestAnUnknownTid:
    @pytest.mark.parametrize("name", ["unknown", *OF_A_TID])
    def test_it_is_not_found(self, handle: Handle, registry: TerminalRegistry, lines: Lines, name: str) -> None:
        assert problem_of(handle(at(name, "99999999"))) == {
            "type": "urn:softpos:problem:terminal_unknown",
            "title": "There is no such terminal",
            "status": 404,
            "detail": "The pool has no pair with this TID.",
            "code": "terminal_unknown",
            "request_id": "aB3dEfGhIjKLmnO=",
        }
        assert holders(registry) == UNTOUCHED
        assert lines.only()["level"] == "WARNING"

    @pytest.mark.parametrize(
        "tid",
        [
            pytest.param("assignments", id="the-name-of-another-route"),
            pytest.param("00012345#30000001", id="a-pairs-name"),
            pytest.param("00012345", id="a-point-of-sale"),
            pytest.param(" 30000001", id="a-blank-before"),
            pytest.param("3000000\u0661", id="digits-of-others"),
            pytest.param("\x00", id="a-control-character"),
            pytest.param("3" * 33, id="33-characters"),
            pytest.param("3" * 1025, id="longer-than-dynamodbs-keys"),
            pytest.param("è" * 600, id="longer-than-dynamodbs-keys-in-bytes"),
        ],
    )
    @pytest.mark.parametrize("name", OF_A_TID)
    def test_one_that_could_not_exist_is_not_found_either(
        self, handle: Handle, dynamodb: Any, monkeypatch: pytest.MonkeyPatch, name: str, tid: str
    ) -> None:
        strict: Any = Unruly(dynamodb)
        monkeypatch.setattr(terminals, "registry", lambda: registry_of(strict))
        assert told(handle(at(name, tid))) == (404, "terminal_unknown")


EVERY_ROUTE = [
    pytest.param(load(name), id=load(name)["routeKey"].replace(" ", "-"))
    for name in (
        "imported-from-json",
        "listed",
        "shown",
        "deleted",
        "assigned",
        "released",
        "first-free-assigned",
        "moved-to-a-pair",
    )
]
"""On each, something that would succeed."""


class TestEveryRoute:
    @pytest.mark.parametrize("event", EVERY_ROUTE)
    def test_its_line_names_route_and_caller_and_no_operator(self, handle: Handle, lines: Lines, event: Event) -> None:
        handle(event)
        line = lines.only()
        assert (line["level"], line["message"]) == ("INFO", "terminals served")
        assert (line["route"], line["caller"]) == (event["routeKey"], CALLER)
        assert (line["request_id"], line["invocation"]) == ("aB3dEfGhIjKLmnO=", INVOCATION)
        assert "@" not in lines.text
        assert "THE-SIGNATURE" not in lines.text
        assert "THE-SECURITY-TOKEN" not in lines.text

    @pytest.mark.parametrize("event", EVERY_ROUTE)
    @pytest.mark.parametrize(
        "authorizer",
        [
            pytest.param({}, id="no-authorizer"),
            pytest.param({"authorizer": None}, id="authorizer-null"),
            pytest.param({"authorizer": {"jwt": {"claims": {"email": OPERATOR}, "scopes": None}}}, id="the-phones"),
        ],
    )
    def test_nothing_is_done_without_the_iam_authorizer(
        self, handle: Handle, registry: TerminalRegistry, lines: Lines, event: Event, authorizer: dict[str, Any]
    ) -> None:
        """A route that someone deploys without it, or with the phone's, must not be open."""
        context = {**without_authorizer(event)["requestContext"], **authorizer}
        answer = handle({**event, "requestContext": context})
        assert told(answer) == (500, "internal_error")
        assert OPERATOR not in answer["body"]
        assert holders(registry) == UNTOUCHED
        line = lines.only()
        assert (line["level"], line["route"]) == ("ERROR", event["routeKey"])
        assert "caller" not in line

    @pytest.mark.parametrize("event", EVERY_ROUTE)
    @pytest.mark.parametrize(
        ("failing", "status", "code"),
        [
            pytest.param("ResourceNotFoundException", 500, "misconfigured", id="table-missing"),
            pytest.param("AccessDeniedException", 500, "misconfigured", id="not-allowed"),
            pytest.param("InternalServerError", 503, "backend_unavailable", id="dynamodb-failing"),
        ],
    )
    def test_what_dynamodb_says_stays_inside(
        self,
        handle: Handle,
        dynamodb: Any,
        monkeypatch: pytest.MonkeyPatch,
        lines: Lines,
        event: Event,
        failing: str,
        status: int,
        code: str,
    ) -> None:
        broken: Any = Unruly(dynamodb, **dict.fromkeys(("get_item", "query", "put_item"), failing))
        monkeypatch.setattr(terminals, "registry", lambda: registry_of(broken))
        answer = handle(event)
        assert told(answer) == (status, code)
        assert "s3cr3t" not in json.dumps(answer) + lines.text
        assert (lines.only()["level"], lines.only()["code"], lines.only()["caller"]) == ("ERROR", code, CALLER)

    @pytest.mark.parametrize("event", [each for each in EVERY_ROUTE if not each.id.startswith("GET")])
    def test_while_others_keep_changing_things_it_asks_for_patience(
        self, handle: Handle, dynamodb: Any, monkeypatch: pytest.MonkeyPatch, lines: Lines, event: Event
    ) -> None:
        busy: Any = Unruly(dynamodb, transact_write_items="TransactionConflictException")
        monkeypatch.setattr(terminals, "registry", lambda: registry_of(busy))
        answer = handle(event)
        assert told(answer) == (503, "registry_busy")
        assert answer["headers"]["retry-after"] == "1"
        assert lines.only()["code"] == "registry_busy"

    def test_two_invocations_write_two_lines_that_share_nothing(self, handle: Handle, lines: Lines) -> None:
        handle(load("shown"))
        other = without_authorizer(load("none-free"))
        other["requestContext"]["requestId"] = "another="
        handle(other, Context(aws_request_id="another-invocation"))
        first, second = lines.all()
        assert (first["point_of_sale"], first["terminal_ids"]) == ("00012345", ["30000001", "40000001"])
        assert not {"code", "causes", "remedy"} & set(first)
        assert not {"caller", "point_of_sale", "terminal_ids"} & set(second)
        assert (second["request_id"], second["invocation"]) == ("another=", "another-invocation")

    def test_a_failure_while_the_registry_is_built_is_answered_too(
        self, handle: Handle, lines: Lines, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unbuildable() -> None:
            raise MisconfiguredError("environment variable TERMINALS_TABLE is not set", "set it")

        monkeypatch.setattr(terminals, "registry", unbuildable)
        answer = handle(load("listed"))
        assert told(answer) == (500, "misconfigured")
        assert "TERMINALS_TABLE" not in answer["body"]
        assert lines.only()["remedy"] == "set it"

    def test_one_that_the_function_does_not_know_is_our_own_mistake(self, handle: Handle, lines: Lines) -> None:
        assert told(handle({**load("listed"), "routeKey": "PATCH /v1/terminals"})) == (500, "internal_error")
        assert lines.only()["route"] == "PATCH /v1/terminals"


def test_what_the_back_office_does_is_what_the_phone_gets(handle: Handle, registry: TerminalRegistry) -> None:
    """A release takes effect at once, and so does a move: the phone's side reads the same pool."""
    handle(load("assigned"))
    assert registry.held_by("ANNA.bianchi@example.com") == Assignment(
        "00012345", "30000002", "40000002", SECOND_OPERATOR
    )
    handle(at("released", "30000002"))
    assert registry.page_of(SECOND_OPERATOR).pairs == []


FILES = sorted(EVENTS.glob("terminals-*.json"))


class TestTheEventFiles:
    @pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
    def test_each_is_an_http_api_event_behind_the_iam_authorizer(self, file: Path) -> None:
        event = load_event(file.stem)
        assert_like_api_gateways(event)
        assert set(event["requestContext"]["authorizer"]) == {"iam"}

    def test_there_is_one_for_every_route(self, function: ModuleType) -> None:
        assert {load_event(file.stem)["routeKey"] for file in FILES} == set(function._ROUTES)

    @pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
    def test_each_is_used_here(self, file: Path) -> None:
        assert f'"{file.stem.removeprefix("terminals-")}"' in Path(__file__).read_text()
