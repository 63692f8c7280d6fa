"""The registry: what it promises of pairs and of who holds them, whatever DynamoDB and others do meanwhile."""

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError, ReadTimeoutError
from botocore.stub import Stubber
from moto import mock_aws
from registry_support import (
    REGION,
    TABLE,
    InMemory,
    Instead,
    Unwired,
    Watched,
    cancelled,
    check_invariants,
    create_table,
    failed,
    listed,
    nth,
    table,
)
from unit_support import Clock

from softpos import terminals
from softpos.errors import (
    BackendUnavailableError,
    MisconfiguredError,
    NoTerminalFreeError,
    OperatorHoldsTerminalError,
    PairsRefusedError,
    RegistryBusyError,
    SoftposError,
    TerminalHeldError,
    TerminalNotAssignedError,
    TerminalUnknownError,
)
from softpos.pairs import PairList, TerminalPair, from_csv
from softpos.terminals import ABANDONED_SECONDS, ATTEMPTS, Assignment, Imported, Page, TerminalRegistry

EMAIL = "mario.rossi@example.com"
ITEM = {
    "pk": {"S": "operators"},
    "sk": {"S": EMAIL},
    "operator": {"S": EMAIL},
    "point_of_sale": {"S": "00012345"},
    "softpos_tid": {"S": "30000001"},
    "mpos_tid": {"S": "40000001"},
    "pair": {"S": "00012345#30000001"},
    "imported": {"S": "0f3a"},
}
HELD = Assignment("00012345", "30000001", "40000001", EMAIL)

MARIO, MARIO_TOO, ANNA = "Mario@example.com", "MARIO@example.COM", "anna@example.com"
BOTH = TerminalPair("100", "30000001", "40000001")
SOFTPOS = TerminalPair("100", "30000002", None)
MPOS = TerminalPair("200", None, "40000003")


def by(operator: str, pair: TerminalPair) -> Assignment:
    return Assignment(pair.point_of_sale, pair.softpos_tid, pair.mpos_tid, operator)


@pytest.fixture(scope="module")
def aws() -> Iterator[Any]:
    """A real client of a DynamoDB that is not. Made once: that takes a while."""
    with mock_aws():
        yield boto3.client("dynamodb", region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test")


@pytest.fixture
def dynamodb(aws: Any) -> Iterator[Any]:
    """DynamoDB, with an empty terminals table."""
    create_table(aws)
    yield aws
    aws.delete_table(TableName=TABLE)


@pytest.fixture
def clock() -> Clock:
    return Clock(1_800_000_000.0)


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def registry_of(clock: Clock, slept: list[float]) -> Callable[[Any], TerminalRegistry]:
    """An execution environment's registry, on a DynamoDB of its own."""
    return lambda dynamodb: TerminalRegistry(dynamodb, TABLE, clock, slept.append)


@pytest.fixture
def registry(dynamodb: Any, registry_of: Callable[[Any], TerminalRegistry]) -> TerminalRegistry:
    return registry_of(dynamodb)


@pytest.fixture
def pool(registry: TerminalRegistry) -> TerminalRegistry:
    """The registry with three free pairs at two points of sale."""
    registry.add(listed(BOTH, SOFTPOS, MPOS))
    return registry


class OffTheWire:
    """Tests that make so many calls that the wire would take most of their time."""

    @pytest.fixture
    def dynamodb(self, dynamodb: Any) -> Any:
        return Unwired()


# ---------------------------------------------------------------- one operator's pair


def held(dynamodb: Any, item: dict[str, Any] | None, email: str = EMAIL) -> Assignment:
    """What the registry says when the table holds `item`, and that it asked as it promises to."""
    with Stubber(dynamodb) as aws:
        aws.add_response(
            "get_item",
            {} if item is None else {"Item": item},
            {
                "TableName": TABLE,
                "Key": {"pk": {"S": "operators"}, "sk": {"S": email.lower()}},
                "ConsistentRead": True,
            },
        )
        assignment = TerminalRegistry(dynamodb, TABLE).held_by(email)
        aws.assert_no_pending_responses()
    return assignment


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in ITEM.items() if name not in names}


class TestWhatAnOperatorHolds:
    def test_it_is_one_strongly_consistent_read_of_one_item(self, dynamodb: Any) -> None:
        """A Stubber fails whatever else is asked."""
        assert held(dynamodb, ITEM) == HELD

    def test_the_case_of_the_e_mail_does_not_matter(self, dynamodb: Any) -> None:
        assert held(dynamodb, ITEM, "Mario.ROSSI@Example.Com").terminal_ids == ("30000001", "40000001")

    def test_nexi_is_told_the_operator_as_the_item_spells_it(self, dynamodb: Any) -> None:
        """Nexi compares it with what the SDK was given, and the user pool may fold it."""
        item = {**ITEM, "operator": {"S": "Mario.Rossi@example.com"}}
        assert held(dynamodb, item).operator == "Mario.Rossi@example.com"

    @pytest.mark.parametrize(
        ("absent", "tids"),
        [
            pytest.param((), ("30000001", "40000001"), id="both-and-the-softpos-first"),
            pytest.param(("mpos_tid",), ("30000001",), id="a-softpos"),
            pytest.param(("softpos_tid",), ("40000001",), id="an-mpos"),
        ],
    )
    def test_it_is_one_terminal_or_two(self, dynamodb: Any, absent: tuple[str, ...], tids: tuple[str, ...]) -> None:
        backwards = dict(reversed(without(*absent).items()))
        assert held(dynamodb, backwards).terminal_ids == tids

    @pytest.mark.parametrize("empty", [{"S": ""}, {"NULL": True}], ids=["empty", "null"])
    def test_a_tid_that_is_empty_is_none(self, dynamodb: Any, empty: dict[str, Any]) -> None:
        assert held(dynamodb, {**ITEM, "mpos_tid": empty}).terminal_ids == ("30000001",)

    def test_attributes_of_others_do_no_harm(self, dynamodb: Any) -> None:
        item = {**ITEM, "note": {"L": [{"S": "x"}]}, "since": {"N": "1"}}
        assert held(dynamodb, item) == held(dynamodb, ITEM)

    def test_without_an_item_it_is_nothing(self, dynamodb: Any) -> None:
        with pytest.raises(TerminalNotAssignedError, match="holds no terminal"):
            held(dynamodb, None)

    @pytest.mark.parametrize(
        "item",
        [
            pytest.param(without("operator"), id="operator-missing"),
            pytest.param(without("point_of_sale"), id="point-of-sale-missing"),
            pytest.param(without("softpos_tid", "mpos_tid"), id="both-tids-missing"),
            pytest.param({**ITEM, "operator": {"S": ""}}, id="operator-empty"),
            pytest.param({**ITEM, "operator": {"S": "anna.bianchi@example.com"}}, id="operator-another"),
            pytest.param({**ITEM, "point_of_sale": {"N": "12345"}}, id="point-of-sale-a-number"),
            pytest.param({**without("mpos_tid"), "softpos_tid": {"N": "30000001"}}, id="tid-a-number"),
            pytest.param({**without("mpos_tid"), "softpos_tid": {"L": []}}, id="tid-a-list"),
            pytest.param({"pk": ITEM["pk"], "sk": ITEM["sk"]}, id="nothing-but-the-key"),
            pytest.param({}, id="nothing-at-all"),
        ],
    )
    def test_a_malformed_item_is_a_misconfiguration(self, dynamodb: Any, item: dict[str, Any]) -> None:
        with pytest.raises(MisconfiguredError, match="is another's, or lacks operator, point_of_sale or every TID"):
            held(dynamodb, item)

    def test_nothing_is_remembered(self, pool: TerminalRegistry, dynamodb: Any, registry_of: Any) -> None:
        """A terminal that was taken away is gone with the next call."""
        pool.assign(MARIO, "30000001")
        phone = registry_of(dynamodb)
        assert phone.held_by(MARIO) == by(MARIO, BOTH)
        pool.release("30000001")
        with pytest.raises(TerminalNotAssignedError):
            phone.held_by(MARIO)

    def test_a_page_of_the_operator_is_that_pair_or_empty(self, pool: TerminalRegistry) -> None:
        assert pool.page_of(MARIO) == Page([], None)
        pool.assign(MARIO, "30000001")
        assert pool.page_of(MARIO_TOO) == Page([by(MARIO, BOTH)], None)
        assert pool.page_of(ANNA) == Page([], None)


class TestWhatDynamodbFailsWith:
    @pytest.mark.parametrize(
        ("code", "error", "found"),
        [
            ("ResourceNotFoundException", MisconfiguredError, "TERMINALS_TABLE names cannot be used"),
            ("AccessDeniedException", MisconfiguredError, "TERMINALS_TABLE names cannot be used"),
            ("ValidationException", MisconfiguredError, "TERMINALS_TABLE names cannot be used"),
            ("InternalServerError", BackendUnavailableError, "DynamoDB failed for TERMINALS_TABLE"),
            ("ProvisionedThroughputExceededException", RegistryBusyError, "DynamoDB throttles TERMINALS_TABLE"),
            ("ThrottlingException", RegistryBusyError, "DynamoDB throttles TERMINALS_TABLE"),
            ("ExpiredTokenException", BackendUnavailableError, "DynamoDB failed for TERMINALS_TABLE"),
        ],
    )
    @pytest.mark.parametrize(
        "operation", ["get_item", "query", "batch_get_item", "put_item", "transact_write_items", "delete_item"]
    )
    def test_it_becomes_ours(
        self, dynamodb: Any, registry_of: Any, operation: str, code: str, error: type[SoftposError], found: str
    ) -> None:
        def fail(called: str, _: Any) -> None:
            if called == operation:
                raise failed(operation, code)

        registry = registry_of(Watched(dynamodb, fail))
        with pytest.raises(SoftposError, match=code) as caught:
            registry.held_by(EMAIL) if operation == "get_item" else registry.add(listed(BOTH))
        assert type(caught.value) is error
        assert found in str(caught.value)
        assert caught.value.remedy
        assert "arn:" not in f"{caught.value} {caught.value.remedy}"
        assert caught.value.__cause__ is not None

    @pytest.mark.parametrize(
        ("failure", "ours"),
        [
            (NoCredentialsError(), "internal_error"),
            (EndpointConnectionError(endpoint_url="https://aws"), "backend_unavailable"),
            (ReadTimeoutError(endpoint_url="https://aws"), "backend_unavailable"),
        ],
        ids=lambda each: each if isinstance(each, str) else type(each).__name__,
    )
    @pytest.mark.parametrize("operation", ["get_item", "transact_write_items"])
    def test_so_does_what_botocore_raises_by_itself(
        self, pool: TerminalRegistry, dynamodb: Any, registry_of: Any, operation: str, failure: Exception, ours: str
    ) -> None:
        def fail(called: str, _: Any) -> None:
            if called == operation:
                raise failure

        with pytest.raises(SoftposError, match=type(failure).__name__) as caught:
            registry_of(Watched(dynamodb, fail)).assign(MARIO, "30000001")
        assert caught.value.code == ours

    def test_a_table_that_is_not_there_is_a_misconfiguration(self, dynamodb: Any) -> None:
        with pytest.raises(MisconfiguredError, match="ResourceNotFoundException"):
            TerminalRegistry(dynamodb, "another").held_by(EMAIL)


# ---------------------------------------------------------------- assigning


class TestAssign:
    @pytest.mark.parametrize("tid", ["30000001", "40000001"], ids=["by-its-softpos", "by-its-mpos"])
    def test_the_pair_with_this_tid(self, pool: TerminalRegistry, dynamodb: Any, tid: str) -> None:
        assert pool.assign(MARIO, tid) == by(MARIO, BOTH)
        assert pool.held_by(MARIO) == pool.show("30000001") == pool.show("40000001") == by(MARIO, BOTH)
        check_invariants(dynamodb)

    def test_the_first_free_one_of_all(self, pool: TerminalRegistry) -> None:
        assert pool.assign(MARIO) == by(MARIO, BOTH)
        assert pool.assign(ANNA) == by(ANNA, SOFTPOS)

    def test_the_first_free_one_of_a_point_of_sale(self, pool: TerminalRegistry) -> None:
        assert pool.assign(MARIO, point_of_sale="200") == by(MARIO, MPOS)
        with pytest.raises(NoTerminalFreeError):
            pool.assign(ANNA, point_of_sale="200")
        assert pool.assign(ANNA, point_of_sale="100") == by(ANNA, BOTH)

    @pytest.mark.parametrize("point_of_sale", ["1", "10", "1000", "100-1", "20", "300", "100#30000001"])
    def test_a_point_of_sale_is_not_another_with_a_name_like_it(
        self, pool: TerminalRegistry, point_of_sale: str
    ) -> None:
        pool.add(listed(TerminalPair("1001", "s", None), TerminalPair("100.", "t", None)))
        with pytest.raises(NoTerminalFreeError, match="every pair that would do is held"):
            pool.assign(MARIO, point_of_sale=point_of_sale)

    @pytest.mark.parametrize(
        "asked",
        [
            pytest.param({"tid": "40000001"}, id="by-a-tid-of-it"),
            pytest.param({}, id="first-free-one"),
            pytest.param({"point_of_sale": "100"}, id="first-free-one-where-it-is"),
        ],
    )
    @pytest.mark.parametrize("move", [False, True], ids=["assign", "move"])
    def test_who_holds_what_is_asked_for_keeps_it_and_nothing_is_written(
        self, pool: TerminalRegistry, dynamodb: Any, registry_of: Any, asked: dict[str, Any], move: bool
    ) -> None:
        pool.assign(MARIO, "30000001")
        watched = Watched(dynamodb)
        assert registry_of(watched).assign(MARIO_TOO, **asked, move=move) == by(MARIO, BOTH)
        assert set(watched.calls) <= {"get_item", "query"}

    @pytest.mark.parametrize("asked", [{"tid": "30000002"}, {"point_of_sale": "200"}], ids=["named", "first-free"])
    def test_who_holds_another_is_refused(self, pool: TerminalRegistry, dynamodb: Any, asked: dict[str, Any]) -> None:
        pool.assign(MARIO, "30000001")
        before = table(dynamodb)
        with pytest.raises(OperatorHoldsTerminalError, match="holds another pair"):
            pool.assign(MARIO_TOO, **asked)
        assert table(dynamodb) == before

    @pytest.mark.parametrize("tid", ["30000001", "40000001"])
    def test_what_another_holds_is_refused(self, pool: TerminalRegistry, dynamodb: Any, tid: str) -> None:
        pool.assign(MARIO, "30000001")
        before = table(dynamodb)
        with pytest.raises(TerminalHeldError, match="held by another operator"):
            pool.assign(ANNA, tid)
        assert table(dynamodb) == before

    @pytest.mark.parametrize("tid", ["30000009", "100", "100#30000001", "3000000", "mario@example.com"])
    def test_what_is_no_tid_of_the_pool_is_unknown(self, pool: TerminalRegistry, tid: str) -> None:
        with pytest.raises(TerminalUnknownError):
            pool.assign(MARIO, tid)

    def test_no_pair_is_free_when_there_is_none_at_all(self, registry: TerminalRegistry) -> None:
        with pytest.raises(NoTerminalFreeError) as caught:
            registry.assign(MARIO)
        assert caught.value.remedy

    def test_no_error_repeats_the_e_mail(self, pool: TerminalRegistry) -> None:
        pool.assign(MARIO, "30000001")
        pool.assign(ANNA, "30000002")
        for operator, asked in (
            (MARIO, {"tid": "40000003"}),
            (MARIO, {"tid": "30000002", "move": True}),
            (ANNA, {"point_of_sale": "300", "move": True}),
            ("eve@example.com", {"tid": "30000001"}),
            ("eve@example.com", {"tid": "30000001", "move": True}),
        ):
            with pytest.raises(SoftposError) as caught:
                pool.assign(operator, **asked)  # type: ignore[arg-type]  # of either kind
            assert "@" not in f"{caught.value} {caught.value.remedy}"


class TestMove:
    def test_to_the_pair_with_this_tid_and_the_other_is_free_again(self, pool: TerminalRegistry, dynamodb: Any) -> None:
        pool.assign(MARIO, "30000001")
        assert pool.assign(MARIO, "40000003", move=True) == by(MARIO, MPOS)
        assert pool.held_by(MARIO) == by(MARIO, MPOS)
        assert pool.page().pairs == [BOTH, SOFTPOS, by(MARIO, MPOS)]
        check_invariants(dynamodb)

    def test_to_the_first_free_one_of_a_point_of_sale(self, pool: TerminalRegistry, dynamodb: Any) -> None:
        pool.assign(MARIO, "40000003")
        assert pool.assign(MARIO, point_of_sale="100", move=True) == by(MARIO, BOTH)
        assert pool.show("40000003") == MPOS
        check_invariants(dynamodb)

    def test_who_moves_at_one_point_of_sale_stays(self, pool: TerminalRegistry) -> None:
        pool.assign(MARIO, "30000002")
        assert pool.assign(MARIO, point_of_sale="100", move=True) == by(MARIO, SOFTPOS)

    def test_the_spelling_of_the_operator_that_was_stored_is_kept(self, pool: TerminalRegistry) -> None:
        """It is what Nexi knows the operator by, and the phone signed in with."""
        pool.assign(MARIO, "30000001")
        assert pool.assign(MARIO_TOO, "40000003", move=True).operator == MARIO
        assert pool.held_by(MARIO_TOO).operator == MARIO
        pool.release("40000003")
        assert pool.assign(MARIO_TOO, "40000003").operator == MARIO_TOO

    @pytest.mark.parametrize("asked", [{"tid": "30000001"}, {"tid": "x"}, {"point_of_sale": "100"}], ids=str)
    def test_who_holds_nothing_cannot_move(self, pool: TerminalRegistry, asked: dict[str, Any]) -> None:
        with pytest.raises(TerminalNotAssignedError, match="holds no terminal to move from"):
            pool.assign(MARIO, **asked, move=True)

    @pytest.mark.parametrize(
        ("asked", "error"),
        [
            pytest.param({"tid": "30000002"}, TerminalHeldError, id="to-what-another-holds"),
            pytest.param({"tid": "x"}, TerminalUnknownError, id="to-an-unknown-tid"),
            pytest.param({"point_of_sale": "300"}, NoTerminalFreeError, id="to-where-none-is-free"),
        ],
    )
    def test_who_cannot_move_keeps_what_they_hold(
        self, pool: TerminalRegistry, dynamodb: Any, asked: dict[str, Any], error: type[SoftposError]
    ) -> None:
        pool.assign(MARIO, "30000001")
        pool.assign(ANNA, "30000002")
        before = table(dynamodb)
        with pytest.raises(error):
            pool.assign(MARIO, **asked, move=True)
        assert table(dynamodb) == before


class TestRelease:
    @pytest.mark.parametrize("tid", ["30000001", "40000001"], ids=["by-its-softpos", "by-its-mpos"])
    def test_the_pair_is_free_and_the_operator_without(self, pool: TerminalRegistry, dynamodb: Any, tid: str) -> None:
        pool.assign(MARIO, "30000001")
        assert pool.release(tid) == BOTH
        assert pool.show(tid) == BOTH
        with pytest.raises(TerminalNotAssignedError):
            pool.held_by(MARIO)
        assert pool.assign(ANNA, tid) == by(ANNA, BOTH)
        check_invariants(dynamodb)

    def test_what_is_free_already_stays_free(self, pool: TerminalRegistry, dynamodb: Any) -> None:
        before = table(dynamodb)
        assert pool.release("40000003") == pool.release("40000003") == MPOS
        assert table(dynamodb) == before

    def test_what_is_no_tid_of_the_pool_is_unknown(self, pool: TerminalRegistry) -> None:
        with pytest.raises(TerminalUnknownError):
            pool.release("30000009")


class TestDelete:
    @pytest.mark.parametrize("tid", ["30000001", "40000001"], ids=["by-its-softpos", "by-its-mpos"])
    def test_a_free_pair_is_gone_with_all_its_tids(self, pool: TerminalRegistry, dynamodb: Any, tid: str) -> None:
        assert pool.delete(tid) == BOTH
        for gone in ("30000001", "40000001"):
            with pytest.raises(TerminalUnknownError):
                pool.show(gone)
            with pytest.raises(TerminalUnknownError):
                pool.delete(gone)
        assert pool.page().pairs == [SOFTPOS, MPOS]
        check_invariants(dynamodb)

    def test_a_held_pair_is_refused(self, pool: TerminalRegistry, dynamodb: Any) -> None:
        pool.assign(MARIO, "30000001")
        before = table(dynamodb)
        with pytest.raises(TerminalHeldError, match="is held"):
            pool.delete("40000001")
        assert table(dynamodb) == before
        pool.release("30000001")
        assert pool.delete("40000001") == BOTH

    def test_its_tids_may_come_again_in_another_combination(self, pool: TerminalRegistry, dynamodb: Any) -> None:
        pool.delete("30000001")
        pool.delete("30000002")
        other = (TerminalPair("200", "30000001", None), TerminalPair("300", "40000001", "30000002"))
        assert pool.add(listed(*other)) == Imported(2, 0)
        assert [pool.show(tid) for tid in ("30000001", "40000001", "30000002")] == [*other, other[1]]
        check_invariants(dynamodb)


class TestPage(OffTheWire):
    SORTED = (
        TerminalPair("1", "9", None),
        TerminalPair("1-1", "2", None),
        TerminalPair("1.1", "4", None),
        TerminalPair("10", "3", "1"),
        TerminalPair("10", None, "8"),
        TerminalPair("A", "5", None),
        TerminalPair("_", "6", None),
        TerminalPair("a", "7", "0"),
    )
    """By point of sale and first TID, as ASCII has them."""

    @pytest.fixture
    def pairs(self, registry: TerminalRegistry) -> list[TerminalPair | Assignment]:
        registry.add(listed(*reversed(self.SORTED)))
        held = {"1": MARIO, "8": ANNA, "6": "eve@example.com"}
        return [
            registry.assign(held[tid], tid) if (tid := pair.terminal_ids[-1]) in held else pair for pair in self.SORTED
        ]

    def test_it_is_sorted_by_point_of_sale_and_tid(self, registry: TerminalRegistry, pairs: list[TerminalPair]) -> None:
        assert registry.page() == Page(pairs, None)

    @pytest.mark.parametrize("state", [None, "free", "held"])
    @pytest.mark.parametrize("point_of_sale", [None, "10", "1", "2"])
    def test_pages_of_any_size_make_the_same_whole(
        self, registry: TerminalRegistry, pairs: list[TerminalPair], point_of_sale: str | None, state: Any
    ) -> None:
        whole = [
            pair
            for pair in pairs
            if point_of_sale in (None, pair.point_of_sale)
            and state in (None, "held" if isinstance(pair, Assignment) else "free")
        ]
        for limit in range(1, len(pairs) + 2):
            paged: list[TerminalPair | Assignment] = []
            page = registry.page(point_of_sale, state, limit=limit)
            while page.after:
                assert len(page.pairs) == limit
                paged += page.pairs
                page = registry.page(point_of_sale, state, page.after, limit)
            assert paged + page.pairs == whole

    @pytest.mark.parametrize(
        ("after", "tids"),
        [
            pytest.param("0#0", [("3", "1"), ("8",)], id="before-all-of-them"),
            pytest.param("1#9", [("3", "1"), ("8",)], id="of-a-point-of-sale-before"),
            pytest.param("10#30", [("8",)], id="of-a-pair-that-is-not-there-any-more"),
            pytest.param("10#8", [], id="the-last-one"),
            pytest.param("A#5", [], id="of-a-point-of-sale-after"),
            pytest.param("zzz#zzz", [], id="after-all-of-them"),
        ],
    )
    @pytest.mark.usefixtures("pairs")
    def test_what_comes_after_a_name_of_whatever_point_of_sale(
        self, registry: TerminalRegistry, after: str, tids: list[tuple[str, ...]]
    ) -> None:
        page = registry.page("10", after=after)
        assert ([pair.terminal_ids for pair in page.pairs], page.after) == (tids, None)

    @pytest.mark.parametrize("n", range(1, 6))
    def test_a_pair_that_is_assigned_while_the_page_is_read_is_not_missing(
        self, pool: TerminalRegistry, dynamodb: Any, registry_of: Any, n: int
    ) -> None:
        assigning = Watched(dynamodb, nth(n, lambda: pool.assign(MARIO, "30000001")))
        first, *others = registry_of(assigning).page().pairs
        assert first in (BOTH, by(MARIO, BOTH))
        assert others == [SOFTPOS, MPOS]

    def test_what_is_no_pair_is_left_out(self, pool: TerminalRegistry, dynamodb: Any) -> None:
        """Whoever put it there."""
        for name, item in {
            "100#30000001x": {"softpos_tid": {"S": "30000001x"}},
            "100#30000001y": {"point_of_sale": {"S": "100"}},
            "100#30000001z": {"point_of_sale": {"N": "100"}, "mpos_tid": {"S": "30000001z"}},
        }.items():
            dynamodb.put_item(TableName=TABLE, Item={"pk": {"S": "free"}, "sk": {"S": name}, **item})
        for limit in (1, 2, 3):
            first = pool.page(limit=limit)
            assert first.pairs + pool.page(after=first.after).pairs * (limit < 3) == [BOTH, SOFTPOS, MPOS]

    @pytest.mark.usefixtures("pairs")
    def test_answers_that_dynamodb_cuts_short_make_no_difference(
        self, registry: TerminalRegistry, dynamodb: Any, registry_of: Any
    ) -> None:
        """An answer ends after a megabyte, with what to ask for next."""

        cut_short = registry_of(Instead(dynamodb, "query", lambda query, asked: query(**{**asked, "Limit": 1})))
        assert cut_short.page() == registry.page()
        assert cut_short.page("10", "held", limit=2) == registry.page("10", "held", limit=2)
        registry.add(listed(*(TerminalPair("b", f"b{n}", None) for n in range(3))))
        assert cut_short.assign("new@example.com", point_of_sale="b").terminal_ids == ("b0",)


# ---------------------------------------------------------------- importing


def many(pairs: int) -> list[TerminalPair]:
    return [TerminalPair("900", f"{50000000 + at}", f"{60000000 + at}") for at in range(pairs)]


def refused(registry: TerminalRegistry, pairs: PairList) -> dict[str, str]:
    """What is told of an import that is refused."""
    with pytest.raises(PairsRefusedError) as caught:
        registry.add(pairs)
    return caught.value.members


class CrashError(BaseException):
    """The environment is gone."""


def crash() -> None:
    raise CrashError


class TestImport:
    def test_what_is_new_is_imported_and_what_is_there_stays(self, registry: TerminalRegistry, dynamodb: Any) -> None:
        assert registry.add(listed(BOTH, MPOS)) == Imported(2, 0)
        registry.assign(MARIO, "30000001")
        before = table(dynamodb)
        assert registry.add(listed(MPOS, BOTH)) == Imported(0, 2)
        assert table(dynamodb) == before
        assert registry.add(listed(MPOS, SOFTPOS, BOTH)) == Imported(1, 2)
        assert registry.page().pairs == [by(MARIO, BOTH), SOFTPOS, MPOS]
        check_invariants(dynamodb)

    @pytest.mark.parametrize(
        ("pair", "taken"),
        [
            pytest.param(TerminalPair("200", "30000001", "40000001"), "30000001 and 40000001", id="elsewhere"),
            pytest.param(
                TerminalPair("100", "40000001", "30000001"), "40000001 and 30000001", id="the-other-way-round"
            ),
            pytest.param(TerminalPair("100", "30000001", None), "30000001", id="without-its-mpos"),
            pytest.param(TerminalPair("100", "30000001", "40000009"), "30000001", id="with-another-mpos"),
            pytest.param(TerminalPair("100", "30000009", "40000001"), "40000001", id="with-another-softpos"),
            pytest.param(TerminalPair("100", "30000002", "40000009"), "30000002", id="with-an-mpos-it-had-not"),
            pytest.param(TerminalPair("200", "40000003", None), "40000003", id="an-mpos-as-a-softpos"),
            pytest.param(TerminalPair("100", "30000001", "30000002"), "30000001 and 30000002", id="of-two-pairs"),
        ],
    )
    @pytest.mark.parametrize("held", [False, True], ids=["free", "held"])
    def test_a_tid_of_another_pair_is_refused(
        self, pool: TerminalRegistry, dynamodb: Any, pair: TerminalPair, taken: str, held: bool
    ) -> None:
        if held:
            for operator in (MARIO, ANNA, "eve@example.com"):
                pool.assign(operator)
        before = table(dynamodb)
        new = TerminalPair("100", "30000008", None)
        assert refused(pool, listed(new, pair)) == {"pairs[1]": f"has {taken}, which the pool has in another pair"}
        assert table(dynamodb) == before

    def test_all_that_is_wrong_is_told_at_once_with_what_the_list_says_of_itself(
        self, pool: TerminalRegistry, dynamodb: Any, registry_of: Any
    ) -> None:
        with pytest.raises(CrashError):
            registry_of(Watched(dynamodb, nth(1, crash, "delete_item"))).add(listed(*many(1)))
        before = table(dynamodb)
        pairs = from_csv(
            "point_of_sale,softpos_tid,mpos_tid\n"
            "100,30000001,40000001\n"
            "100,30000002,40000002\n"
            "100,30000004,\n"
            "100,,\n"
            "900,50000000,60000000\n"
            "100,30000004,40000004\n"
            "100,30000005,30000005 ?\n"
        )
        assert refused(pool, pairs) == {
            "line 3": "has 30000002, which the pool has in another pair",
            "line 5": "has neither a softpos_tid nor an mpos_tid",
            "line 6": "has 50000000 and 60000000, which another import is bringing just now",
            "line 7, softpos_tid": "is in line 4, too",
            "line 8, mpos_tid": "is not 1 to 32 of letters, digits, dot, dash and underscore",
        }
        assert table(dynamodb) == before

    def test_a_pair_that_the_list_has_twice_is_refused_by_that(self, registry: TerminalRegistry, dynamodb: Any) -> None:
        before = table(dynamodb)
        pairs = from_csv("point_of_sale,softpos_tid,mpos_tid\n100,30000001,40000001\n100,30000001,40000001\n")
        assert refused(registry, pairs) == {
            "line 3, softpos_tid": "is in line 2, too",
            "line 3, mpos_tid": "is in line 2, too",
        }
        assert table(dynamodb) == before

    def test_it_becomes_visible_at_once_however_many_transactions_it_takes(
        self, pool: TerminalRegistry, registry_of: Any
    ) -> None:
        dynamodb, pairs = Unwired(), many(120)
        onlooker = registry_of(dynamodb)
        written: list[int] = []

        def look(operation: str, _: Any) -> None:
            if operation not in ("transact_write_items", "delete_item"):
                return
            written.append(len(table(dynamodb)["tids"]))
            assert onlooker.page() == Page([BOTH, SOFTPOS, MPOS], None)
            assert onlooker.page("900", "free", limit=60) == Page([], None)
            with pytest.raises(NoTerminalFreeError):
                onlooker.assign(MARIO, point_of_sale="900")
            for unknown in (onlooker.show, onlooker.release, onlooker.delete, lambda tid: onlooker.assign(MARIO, tid)):
                with pytest.raises(TerminalUnknownError):
                    unknown("50000000")

        importing = Watched(dynamodb, look)
        assert registry_of(importing).add(listed(*pairs)) == Imported(120, 0)
        assert importing.calls.count("transact_write_items") == 4
        assert written == [4, 70, 136, 202, 244]
        assert onlooker.page("900", limit=500) == Page(pairs, None)
        assert onlooker.assign(MARIO, "60000119") == by(MARIO, pairs[-1])
        check_invariants(dynamodb)

    def test_answers_that_dynamodb_gives_in_pieces_make_no_difference(
        self, pool: TerminalRegistry, dynamodb: Any, registry_of: Any, slept: list[float]
    ) -> None:
        """It may leave keys unprocessed, and is asked for them again, later."""

        def piecemeal(real: Callable[..., Any], asked: dict[str, Any]) -> Any:
            keys = asked["RequestItems"][TABLE]["Keys"]
            answer = real(RequestItems={TABLE: {**asked["RequestItems"][TABLE], "Keys": keys[:1]}})
            return {**answer, "UnprocessedKeys": {TABLE: {"Keys": keys[1:]}} if keys[1:] else {}}

        pieces = registry_of(Instead(dynamodb, "batch_get_item", piecemeal))
        assert pieces.add(listed(BOTH, *many(2), MPOS)) == Imported(2, 2)
        assert slept
        assert refused(pieces, listed(TerminalPair("1", "50000001", None), SOFTPOS)) == {
            "pairs[0]": "has 50000001, which the pool has in another pair"
        }

    def test_keys_that_stay_unprocessed_are_not_asked_for_without_end(
        self, dynamodb: Any, registry_of: Any, slept: list[float]
    ) -> None:
        def nothing(_: Any, asked: dict[str, Any]) -> dict[str, Any]:
            return {"Responses": {}, "UnprocessedKeys": asked["RequestItems"]}

        with pytest.raises(RegistryBusyError):
            registry_of(Instead(dynamodb, "batch_get_item", nothing)).add(listed(BOTH))
        assert len(slept) == ATTEMPTS


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pairs a transaction, so that five take three."""
    monkeypatch.setattr(terminals, "_ACTIONS", 6)


@pytest.mark.usefixtures("narrow")
class TestAnImportThatFails(OffTheWire):
    PAIRS = many(5)

    def nothing_is_left(self, dynamodb: Any, registry: TerminalRegistry) -> None:
        assert not [name for name, items in table(dynamodb).items() if items and name != "imports"]
        self.nothing_is_visible(registry)

    def nothing_is_visible(self, registry: TerminalRegistry) -> None:
        assert registry.page() == Page([], None)
        for pair in self.PAIRS:
            for tid in pair.terminal_ids:
                with pytest.raises(TerminalUnknownError):
                    registry.show(tid)
        with pytest.raises(NoTerminalFreeError):
            registry.assign(MARIO)

    @pytest.mark.parametrize("lost", [False, True], ids=["not-done", "done-and-the-answer-lost"])
    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_nothing_of_it_is_left_whichever_transaction_it_is(
        self, registry: TerminalRegistry, dynamodb: Any, registry_of: Any, n: int, lost: bool
    ) -> None:
        def fail() -> None:
            raise failed("TransactWriteItems")

        failing = nth(n, fail, "transact_write_items")
        with pytest.raises(SoftposError, match="InternalServerError"):
            registry_of(Watched(dynamodb, *([None, failing] if lost else [failing]))).add(listed(*self.PAIRS))
        self.nothing_is_left(dynamodb, registry)
        assert registry.add(listed(*self.PAIRS)) == Imported(5, 0)

    @pytest.mark.parametrize("operation", ["put_item", "delete_item"])
    def test_nor_when_it_cannot_be_begun_or_made_visible(
        self, registry: TerminalRegistry, dynamodb: Any, registry_of: Any, operation: str
    ) -> None:
        def fail() -> None:
            raise ReadTimeoutError(endpoint_url="https://aws")

        with pytest.raises(SoftposError, match="ReadTimeoutError"):
            registry_of(Watched(dynamodb, nth(1, fail, operation))).add(listed(*self.PAIRS))
        self.nothing_is_left(dynamodb, registry)

    @pytest.mark.parametrize("n", range(1, 9))
    def test_whenever_it_crashes_nothing_is_visible_and_later_nothing_left(
        self, registry: TerminalRegistry, dynamodb: Any, registry_of: Any, clock: Clock, n: int
    ) -> None:
        """Sweep, two batches of reads, its record, three transactions, and the record's end: it crashes before each."""
        with pytest.raises(CrashError):
            registry_of(Watched(dynamodb, nth(n, crash))).add(listed(*self.PAIRS))
        self.nothing_is_visible(registry)
        check_invariants(dynamodb)
        clock.now += ABANDONED_SECONDS + 1
        self.nothing_is_visible(registry)
        registry.add(listed(SOFTPOS))
        registry.delete("30000002")
        self.nothing_is_left(dynamodb, registry)
        assert registry.add(listed(*self.PAIRS)) == Imported(5, 0)

    def test_until_it_is_given_up_its_tids_are_another_imports(
        self, registry: TerminalRegistry, dynamodb: Any, registry_of: Any, clock: Clock
    ) -> None:
        with pytest.raises(CrashError):
            registry_of(Watched(dynamodb, nth(3, crash, "transact_write_items"))).add(listed(*self.PAIRS))
        other = [TerminalPair("1", self.PAIRS[0].mpos_tid, self.PAIRS[4].mpos_tid), self.PAIRS[1], self.PAIRS[4]]
        clock.now += ABANDONED_SECONDS - 1
        assert refused(registry, listed(*other)) == {
            "pairs[0]": "has 60000000, which another import is bringing just now",
            "pairs[1]": "has 50000001 and 60000001, which another import is bringing just now",
        }
        clock.now += 2
        assert registry.add(listed(*other[:2])) == Imported(2, 0)
        assert registry.page().pairs == other[:2]
        check_invariants(dynamodb)

    @pytest.mark.parametrize("n", range(1, 5))
    def test_an_undoing_that_crashes_is_done_again(
        self, registry: TerminalRegistry, dynamodb: Any, registry_of: Any, clock: Clock, n: int
    ) -> None:
        with pytest.raises(CrashError):
            registry_of(Watched(dynamodb, nth(1, crash, "delete_item"))).add(listed(*self.PAIRS))
        clock.now += ABANDONED_SECONDS + 1
        with pytest.raises(CrashError):
            registry_of(Watched(dynamodb, nth(1 + n, crash))).add(listed(SOFTPOS))
        self.nothing_is_visible(registry)
        check_invariants(dynamodb)
        registry.add(listed(SOFTPOS))
        registry.delete("30000002")
        self.nothing_is_left(dynamodb, registry)

    @pytest.mark.parametrize("n", range(4, 9))
    def test_one_that_was_given_up_while_it_lived_does_not_become_visible_by_halves(
        self, registry: TerminalRegistry, dynamodb: Any, registry_of: Any, clock: Clock, n: int
    ) -> None:
        """It finds that out when it is about to be visible, and begins anew."""
        given_up: set[str] = set()

        def give_up() -> None:
            given_up.update(table(dynamodb)["imports"])
            clock.now += ABANDONED_SECONDS + 1
            registry.add(listed(SOFTPOS))
            clock.now -= ABANDONED_SECONDS + 1

        def look(operation: str, arguments: dict[str, Any]) -> None:
            count(operation, arguments)
            seen = [pair for pair in registry.page().pairs if pair != SOFTPOS]
            assert seen in ([], self.PAIRS)

        count = nth(n, give_up)
        assert registry_of(Watched(dynamodb, look)).add(listed(*self.PAIRS)) == Imported(5, 0)
        at = table(dynamodb)
        assert given_up or n == 4
        assert not given_up & {pair["imported"] for pair in at["free"].values()}
        assert registry.page().pairs == [SOFTPOS, *self.PAIRS]
        check_invariants(dynamodb)

    def test_one_whose_end_went_unheard_is_visible_and_stays(
        self, registry: TerminalRegistry, dynamodb: Any, registry_of: Any, clock: Clock
    ) -> None:
        """It is not known whether it was committed, and to undo what others see already would be worse."""

        def lose() -> None:
            assert registry.assign(MARIO) == by(MARIO, self.PAIRS[0])
            raise ReadTimeoutError(endpoint_url="https://aws")

        with pytest.raises(SoftposError, match="ReadTimeoutError"):
            registry_of(Watched(dynamodb, None, nth(1, lose, "delete_item"))).add(listed(*self.PAIRS))
        assert registry.page().pairs == [by(MARIO, self.PAIRS[0]), *self.PAIRS[1:]]
        clock.now += ABANDONED_SECONDS + 1
        assert registry.add(listed(*self.PAIRS)) == Imported(0, 5)
        check_invariants(dynamodb)

    def test_one_whose_end_botocore_asked_for_twice_tells_what_it_has_done(
        self, dynamodb: Any, registry_of: Any
    ) -> None:
        """botocore asks again when an answer is lost, and then the record is gone already."""

        def twice(delete: Callable[..., Any], asked: dict[str, Any]) -> Any:
            delete(**asked)
            return delete(**asked)

        assert registry_of(Instead(dynamodb, "delete_item", twice)).add(listed(*self.PAIRS)) == Imported(5, 0)

    def test_what_was_given_up_is_forgotten_when_nobody_can_have_seen_it_any_more(
        self, registry: TerminalRegistry, dynamodb: Any, registry_of: Any, clock: Clock
    ) -> None:
        with pytest.raises(CrashError):
            registry_of(Watched(dynamodb, nth(1, crash, "delete_item"))).add(listed(*self.PAIRS))
        clock.now += ABANDONED_SECONDS + 1
        registry.add(listed(SOFTPOS))
        clock.now += 59
        registry.add(listed(SOFTPOS))
        assert len(table(dynamodb)["imports"]) == 1
        clock.now += 2
        registry.add(listed(SOFTPOS))
        assert table(dynamodb)["imports"] == {}
        assert registry.page() == Page([SOFTPOS], None)

    @pytest.mark.parametrize("n", range(1, 9))
    def test_two_that_undo_the_same_leave_nothing_of_it_to_be_seen(
        self, registry: TerminalRegistry, dynamodb: Any, registry_of: Any, clock: Clock, n: int
    ) -> None:
        """One is in the midst of it and crashes, after the other has been at it and gone."""
        with pytest.raises(CrashError):
            registry_of(Watched(dynamodb, nth(1, crash, "delete_item"))).add(listed(*self.PAIRS))
        clock.now += ABANDONED_SECONDS + 1
        with pytest.raises(CrashError):
            registry_of(Watched(dynamodb, nth(1, crash, "transact_write_items"))).add(listed(SOFTPOS))
        clock.now += 61

        def undo_a_transaction_of_it() -> None:
            with suppress(CrashError):
                registry_of(Watched(dynamodb, nth(2, crash, "transact_write_items"))).add(listed(SOFTPOS))

        registry_of(Watched(dynamodb, nth(n, undo_a_transaction_of_it))).add(listed(MPOS))
        assert not set(registry.page().pairs) & set(self.PAIRS)
        check_invariants(dynamodb)

    @pytest.mark.parametrize("n", range(1, 9))
    def test_who_undoes_it_while_another_does_can_import_its_tids(
        self, dynamodb: Any, registry_of: Any, clock: Clock, n: int
    ) -> None:
        """The other is in the midst of it, and crashes."""
        with pytest.raises(CrashError):
            registry_of(Watched(dynamodb, nth(1, crash, "delete_item"))).add(listed(*self.PAIRS))
        clock.now += ABANDONED_SECONDS + 1

        def undo_a_transaction_of_it() -> None:
            with suppress(CrashError):
                registry_of(Watched(dynamodb, nth(2, crash, "transact_write_items"))).add(listed(SOFTPOS))

        registry = registry_of(Watched(dynamodb, nth(n, undo_a_transaction_of_it)))
        assert registry.add(listed(*self.PAIRS)) == Imported(5, 0)
        check_invariants(dynamodb)


def test_pairs_that_are_not_visible_yet_do_not_hold_anyone_up(registry_of: Any) -> None:
    """A phone waits for its first terminal, and a thousand that an import has left may lie before it."""
    dynamodb = InMemory()
    with pytest.raises(CrashError):
        registry_of(Watched(dynamodb, nth(1, crash, "delete_item"))).add(listed(*many(1000)))
    first = TerminalPair("999", "30000001", None)
    registry_of(dynamodb).add(listed(first))
    watched = Watched(dynamodb)
    assert registry_of(watched).assign(MARIO) == by(MARIO, first)
    assert registry_of(watched).page(limit=1) == Page([by(MARIO, first)], None)
    assert len(watched.calls) < 100


# ---------------------------------------------------------------- others in the way


def others(registry: TerminalRegistry, *calls: Callable[[TerminalRegistry], Any]) -> Callable[[], None]:
    """What others do in the meantime, as far as they are let."""

    def happens() -> None:
        for call in calls:
            try:
                call(registry)
            except SoftposError:
                return

    return happens


ANOTHER = TerminalPair("100", "30000001", "40000009")
"""By the name that BOTH has, and with another MPOS TID."""

REPLACED = (lambda registry: registry.delete("30000001"), lambda registry: registry.add(listed(ANOTHER)))


@pytest.mark.parametrize("n", range(1, 9))
class TestBetweenTwoCalls(OffTheWire):
    """Whatever others do before the n-th call to DynamoDB, one gets what was asked for, or a refusal that was true."""

    def outcome(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except SoftposError as error:
            return type(error)

    @pytest.mark.parametrize("change", ["show", "delete", "release"])
    def test_a_pair_is_not_taken_for_the_one_that_had_its_name(
        self, pool: TerminalRegistry, dynamodb: Any, registry_of: Any, change: str, n: int
    ) -> None:
        registry = registry_of(Watched(dynamodb, nth(n, others(pool, *REPLACED))))
        assert self.outcome(lambda: getattr(registry, change)("40000001")) in (BOTH, TerminalUnknownError)
        check_invariants(dynamodb)
        assert self.outcome(lambda: pool.show("40000009")) in (ANOTHER, TerminalUnknownError)

    def test_nor_taken_from_its_holder(self, pool: TerminalRegistry, dynamodb: Any, registry_of: Any, n: int) -> None:
        pool.assign(MARIO, "30000001")
        happens = others(pool, lambda its: its.release("30000001"), *REPLACED, lambda its: its.assign(ANNA, "40000009"))
        registry = registry_of(Watched(dynamodb, nth(n, happens)))
        assert self.outcome(lambda: registry.release("40000001")) in (BOTH, TerminalUnknownError)
        check_invariants(dynamodb)
        assert self.outcome(lambda: pool.show("40000009")) in (by(ANNA, ANOTHER), TerminalUnknownError)

    @pytest.mark.parametrize("move", [False, True], ids=["assign", "move"])
    def test_nor_given_to_who_asked_for_the_one(
        self, pool: TerminalRegistry, dynamodb: Any, registry_of: Any, move: bool, n: int
    ) -> None:
        if move:
            pool.assign(MARIO, "40000003")
        registry = registry_of(Watched(dynamodb, nth(n, others(pool, *REPLACED))))
        given = self.outcome(lambda: registry.assign(MARIO, "40000001", move=move))
        assert given in (by(MARIO, BOTH), TerminalUnknownError)
        if given is TerminalUnknownError:
            assert self.outcome(lambda: pool.held_by(MARIO)) == (by(MARIO, MPOS) if move else TerminalNotAssignedError)
        check_invariants(dynamodb)

    @pytest.mark.parametrize("move", [False, True], ids=["assign", "move"])
    def test_nor_kept_by_who_held_the_one(
        self, pool: TerminalRegistry, dynamodb: Any, registry_of: Any, move: bool, n: int
    ) -> None:
        pool.assign(MARIO, "30000001")
        happens = others(pool, lambda its: its.release("30000001"), *REPLACED)
        registry = registry_of(Watched(dynamodb, nth(n, happens)))
        given = self.outcome(lambda: registry.assign(MARIO, "40000009", move=move))
        assert given in (by(MARIO, ANOTHER), TerminalUnknownError, *([TerminalNotAssignedError] if move else []))
        check_invariants(dynamodb)

    @pytest.mark.parametrize("asked", [{}, {"point_of_sale": "200"}, {"tid": "40000003"}], ids=str)
    def test_who_asks_twice_at_once_is_given_the_last_one_twice(
        self, registry: TerminalRegistry, dynamodb: Any, registry_of: Any, asked: dict[str, Any], n: int
    ) -> None:
        """An app that is started asks for all it needs at once."""
        registry.add(listed(MPOS))
        happens = others(registry, lambda its: its.assign(MARIO, **asked))
        again = registry_of(Watched(dynamodb, nth(n, happens)))
        assert again.assign(MARIO, **asked) == by(MARIO, MPOS)
        check_invariants(dynamodb)

    def test_who_imports_twice_at_once_imports_it_once(
        self,
        registry: TerminalRegistry,
        dynamodb: Any,
        registry_of: Any,
        monkeypatch: pytest.MonkeyPatch,
        n: int,
    ) -> None:
        monkeypatch.setattr(terminals, "_ACTIONS", 3)
        pairs = listed(*many(3))
        happens = others(registry, lambda its: its.add(pairs))
        again = registry_of(Watched(dynamodb, nth(n, happens)))
        assert again.add(pairs) in (Imported(0, 3), Imported(3, 0))
        assert registry.page().pairs == many(3)
        check_invariants(dynamodb)


@pytest.mark.parametrize("theirs_at_first", [False, True], ids=["free-at-first", "theirs-at-first"])
def test_who_asks_for_a_pair_that_is_theirs_or_free_gets_it(registry_of: Any, theirs_at_first: bool) -> None:
    """However often it changes meanwhile which of the two it is: it is never another's, nor do they hold another."""
    for n, m in itertools.combinations(range(1, 10), 2):
        dynamodb = InMemory()
        registry = registry_of(dynamodb)
        registry.add(listed(BOTH))
        changes = [lambda its: its.assign(MARIO, "30000001"), lambda its: its.release("30000001")]
        if theirs_at_first:
            changes.pop(0)(registry)
            changes.append(lambda its: its.assign(MARIO, "30000001"))
        once, again = (nth(at, others(registry, change)) for at, change in zip((n, m), changes, strict=True))
        changing = registry_of(Watched(Watched(dynamodb, once), again))
        assert changing.assign(MARIO, "40000001") == by(MARIO, BOTH)
        check_invariants(dynamodb)


CHANGES: dict[str, Callable[[TerminalRegistry], Any]] = {
    "assign": lambda registry: registry.assign(MARIO, "30000001"),
    "assign-first": lambda registry: registry.assign(MARIO),
    "move": lambda registry: registry.assign(ANNA, "30000001", move=True),
    "release": lambda registry: registry.release("40000003"),
    "delete": lambda registry: registry.delete("30000001"),
    "add": lambda registry: registry.add(listed(*many(2))),
}


@pytest.fixture(params=CHANGES.values(), ids=CHANGES.keys())
def change(request: pytest.FixtureRequest, pool: TerminalRegistry) -> Callable[[TerminalRegistry], Any]:
    """Something that takes a transaction."""
    pool.assign(ANNA, "40000003")
    changed: Callable[[TerminalRegistry], Any] = request.param
    return changed


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each pause might have been."""
    pauses: list[float] = []

    class Noted(random.Random):
        def uniform(self, a: float, b: float) -> float:
            pauses.append(b)
            return super().uniform(a, b)

    monkeypatch.setattr(terminals, "_random", Noted())
    return pauses


class TestTryingAgain(OffTheWire):
    def failing(self, dynamodb: Any, error: Exception, times: int = 10**9) -> Watched:
        left = [error] * times if times < 100 else None

        def fail(operation: str, _: Any) -> None:
            if operation == "transact_write_items" and (left is None or left):
                raise left.pop() if left else error

        return Watched(dynamodb, fail)

    @pytest.mark.parametrize(
        "reasons",
        [
            pytest.param(["TransactionConflict"], id="conflict"),
            pytest.param(["None", "TransactionConflict", "None"], id="conflict-of-one-action"),
            pytest.param(["ThrottlingError"], id="throttling"),
            pytest.param(["ProvisionedThroughputExceeded", "TransactionConflict"], id="throughput-and-conflict"),
            pytest.param(["RequestLimitExceeded"], id="request-limit"),
            pytest.param(["None", "ConditionalCheckFailed"], id="condition"),
            pytest.param(["ConditionalCheckFailed", "TransactionConflict"], id="condition-and-conflict"),
        ],
    )
    def test_what_passes_is_tried_again(
        self, change: Any, dynamodb: Any, registry_of: Any, slept: list[float], reasons: list[str]
    ) -> None:
        change(registry_of(self.failing(dynamodb, cancelled(*reasons), times=3)))
        assert len(slept) == 3
        check_invariants(dynamodb)

    @pytest.mark.parametrize("reason", ["TransactionConflict", "ThrottlingError", "ConditionalCheckFailed"])
    def test_what_does_not_pass_ends(
        self, change: Any, dynamodb: Any, registry_of: Any, slept: list[float], reason: str
    ) -> None:
        before = table(dynamodb)
        failing = self.failing(dynamodb, cancelled(reason))
        with pytest.raises(RegistryBusyError) as caught:
            change(registry_of(failing))
        assert caught.value.remedy
        assert failing.calls.count("transact_write_items") == ATTEMPTS
        assert len(slept) <= ATTEMPTS
        assert {**table(dynamodb), "imports": {}} == before

    def test_it_is_waited_for_longer_each_time_and_not_by_all_alike(
        self, pool: TerminalRegistry, dynamodb: Any, registry_of: Any, slept: list[float], longest: list[float]
    ) -> None:
        with pytest.raises(RegistryBusyError):
            registry_of(self.failing(dynamodb, cancelled("TransactionConflict"))).assign(MARIO)
        assert longest[:4] == pytest.approx([0.01, 0.02, 0.04, 0.08])
        assert longest == sorted(longest)
        assert len(set(slept)) == len(slept)
        assert all(pause <= most for pause, most in zip(slept, longest, strict=True))

    def test_one_that_was_slow_and_asked_for_twice_is_found_done(
        self, pool: TerminalRegistry, dynamodb: Any, registry_of: Any
    ) -> None:
        """botocore sends it again with the same token, and is told that the first is still under way."""
        slow = [failed("TransactWriteItems", "TransactionInProgressException")]

        def still_under_way(operation: str, _: Any) -> None:
            if operation == "transact_write_items" and slow:
                raise slow.pop()

        registry = registry_of(Watched(dynamodb, after=still_under_way))
        assert registry.assign(MARIO, "30000001") == by(MARIO, BOTH)
        check_invariants(dynamodb)

    def test_it_ends_before_who_waits_for_it_does(
        self, pool: TerminalRegistry, dynamodb: Any, registry_of: Any, longest: list[float]
    ) -> None:
        """Within the four seconds that `ATTEMPTS` says."""
        with pytest.raises(RegistryBusyError):
            registry_of(self.failing(dynamodb, cancelled("TransactionConflict"))).assign(MARIO)
        assert sum(longest) <= 4.0

    @pytest.mark.parametrize(
        "error",
        [
            pytest.param(cancelled("ValidationError"), id="validation"),
            pytest.param(cancelled("ThrottlingError", "ValidationError"), id="throttling-and-validation"),
            pytest.param(cancelled("ItemCollectionSizeLimitExceeded"), id="size"),
            pytest.param(cancelled("None"), id="no-reason"),
            pytest.param(cancelled(), id="no-reasons"),
            pytest.param(failed("TransactWriteItems", "UnknownOperationException"), id="not-cancelled-at-all"),
        ],
    )
    def test_anything_else_is_a_failure_at_once(
        self, change: Any, dynamodb: Any, registry_of: Any, slept: list[float], error: Exception
    ) -> None:
        failing = self.failing(dynamodb, error)
        with pytest.raises(SoftposError, match="DynamoDB failed for TERMINALS_TABLE") as caught:
            change(registry_of(failing))
        assert type(caught.value) is SoftposError
        assert caught.value.__cause__ is error
        assert failing.calls.count("transact_write_items") == 1
        assert slept == []


def test_every_read_is_strongly_consistent(pool: TerminalRegistry, dynamodb: Any, registry_of: Any) -> None:
    """moto knows no other kind: an eventually consistent read may show what has been taken away already."""
    reads: dict[str, set[bool]] = {"get_item": set(), "query": set(), "batch_get_item": set()}

    def note(operation: str, asked: dict[str, Any]) -> None:
        if operation in reads:
            reads[operation].add(asked.get("RequestItems", {TABLE: asked})[TABLE].get("ConsistentRead", False))

    registry = registry_of(Watched(dynamodb, note))
    registry.add(listed(*many(1)))
    registry.assign(MARIO)
    registry.assign(MARIO, "40000003", move=True)
    registry.page()
    registry.held_by(MARIO)
    registry.release("40000003")
    registry.delete("40000003")
    assert reads == {"get_item": {True}, "query": {True}, "batch_get_item": {True}}
