"""The registry against a model of it: one thing after the other, and several at once in any order of their calls."""

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from registry_support import TABLE, Both, InMemory, Watched, check_invariants, create_table, failed, listed, nth, table
from unit_support import Clock

from softpos import terminals
from softpos.errors import (
    NoTerminalFreeError,
    OperatorHoldsTerminalError,
    PairsRefusedError,
    SoftposError,
    TerminalHeldError,
    TerminalNotAssignedError,
    TerminalUnknownError,
)
from softpos.pairs import PairList, TerminalPair
from softpos.terminals import ABANDONED_SECONDS, Assignment, Imported, Page, TerminalRegistry

Pair = TerminalPair | Assignment

ANN, BOB, EVE = "Ann@example.com", "bob@example.com", "eve@example.com"
TIDS = ("s1", "s2", "s3", "m1", "m2", "m3")
# Each is the beginning of the next, or looks like it to whoever compares names.
POINTS_OF_SALE = ("1", "1-1", "10")


def free(pair: Pair) -> TerminalPair:
    return TerminalPair(pair.point_of_sale, pair.softpos_tid, pair.mpos_tid)


def given_to(pair: Pair, operator: str) -> Assignment:
    return Assignment(pair.point_of_sale, pair.softpos_tid, pair.mpos_tid, operator)


def tids_of(pairs: Iterable[Pair]) -> set[str]:
    return {tid for pair in pairs for tid in pair.terminal_ids}


def first(pairs: list[Pair]) -> Pair:
    return pairs[0]


class Model:
    """What the registry promises, with nobody else about."""

    def __init__(self, pairs: Iterable[Pair] = ()) -> None:
        self._pairs = {pair.name: pair for pair in pairs}
        self.hidden: set[str] = set()
        """TIDs of imports that have not become visible."""

    def __repr__(self) -> str:
        return repr(self.pairs)

    @property
    def pairs(self) -> list[Pair]:
        """Sorted as `page` is."""
        return sorted(self._pairs.values(), key=lambda pair: (pair.point_of_sale, pair.terminal_ids[0]))

    def held_by(self, email: str) -> Assignment:
        for pair in self._pairs.values():
            if isinstance(pair, Assignment) and pair.operator.lower() == email.lower():
                return pair
        raise TerminalNotAssignedError("")

    def show(self, tid: str) -> Pair:
        for pair in self._pairs.values():
            if tid in pair.terminal_ids:
                return pair
        raise TerminalUnknownError("")

    def page(
        self,
        point_of_sale: str | None = None,
        state: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page:
        pairs = [
            pair
            for pair in self.pairs
            if point_of_sale in (None, pair.point_of_sale)
            and state in (None, "held" if isinstance(pair, Assignment) else "free")
            and (after is None or (pair.point_of_sale, pair.terminal_ids[0]) > tuple(after.split("#")))
        ]
        return Page(pairs[:limit], pairs[limit - 1].name if len(pairs) > limit else None)

    def assign(
        self,
        email: str,
        tid: str | None = None,
        point_of_sale: str | None = None,
        *,
        move: bool = False,
        choose: Callable[[list[Pair]], Pair] = first,
    ) -> Assignment:
        try:
            held = self.held_by(email)
        except TerminalNotAssignedError:
            held = None
            if move:
                raise
        wanted = self.show(tid) if tid else None
        if held and (held is wanted if wanted else point_of_sale in (None, held.point_of_sale)):
            return held
        if held and not move:
            raise OperatorHoldsTerminalError("")
        if isinstance(wanted, Assignment):
            raise TerminalHeldError("")
        if wanted is None:
            would_do = self.page(point_of_sale, "free").pairs
            if not would_do:
                raise NoTerminalFreeError("")
            wanted = choose(would_do)
        if held:
            self._pairs[held.name] = free(held)
        given = given_to(wanted, held.operator if held else email)
        self._pairs[given.name] = given
        return given

    def release(self, tid: str) -> TerminalPair:
        pair = free(self.show(tid))
        self._pairs[pair.name] = pair
        return pair

    def delete(self, tid: str) -> Pair:
        pair = self.show(tid)
        if isinstance(pair, Assignment):
            raise TerminalHeldError("")
        return self._pairs.pop(pair.name)

    def add(self, listed: PairList) -> Imported:
        new = self.new(listed)
        self._pairs |= {pair.name: pair for pair in new}
        return Imported(len(new), len(listed.pairs) - len(new))

    def new(self, listed: PairList) -> list[TerminalPair]:
        there = {tid: free(pair) for pair in self._pairs.values() for tid in pair.terminal_ids}
        problems = {}
        for place, pair in listed.pairs.items():
            taken = [tid for tid in pair.terminal_ids if tid in there or tid in self.hidden]
            if self.hidden.intersection(taken):
                problems[place] = f"has {' and '.join(taken)}, which another import is bringing just now"
            elif any(there.get(tid) != pair for tid in pair.terminal_ids) and taken:
                problems[place] = f"has {' and '.join(taken)}, which the pool has in another pair"
        if problems:
            raise PairsRefusedError(problems)
        return [pair for pair in listed.pairs.values() if pair.terminal_ids[0] not in there]


@dataclass(frozen=True, repr=False)
class Operation:
    name: str
    arguments: dict[str, Any]

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value}' for name, value in self.arguments.items())})"

    def of(self, target: Any, **more: Any) -> Any:
        """The result, or the error."""
        try:
            return getattr(target, self.name)(**self.arguments, **more)
        except SoftposError as error:
            return error


def same(one: Any, other: Any) -> bool:
    """Whether two results, or two errors, say the same."""
    if isinstance(one, PairsRefusedError):
        return isinstance(other, PairsRefusedError) and one.members == other.members
    return type(one) is type(other) and (isinstance(one, Exception) or one == other)


def operations(tids: st.SearchStrategy[str], emails: st.SearchStrategy[str]) -> st.SearchStrategy[Operation]:
    """Whatever can be asked for that is about single pairs."""
    tid, email, move = {"tid": tids}, {"email": emails}, {"move": st.booleans()}
    places = st.sampled_from([None, *POINTS_OF_SALE])
    kinds: list[tuple[str, dict[str, st.SearchStrategy[Any]]]] = [
        ("assign", email | tid | move),
        ("assign", email | {"point_of_sale": places} | move),
        ("release", tid),
        ("delete", tid),
        ("held_by", email),
        ("show", tid),
    ]
    return st.sampled_from(kinds).flatmap(
        lambda kind: st.builds(Operation, st.just(kind[0]), st.fixed_dictionaries(kind[1]))
    )


@st.composite
def new_pairs(draw: st.DrawFn) -> list[TerminalPair]:
    """One pair or a few that have no TID in common, of the few that there are."""
    left = draw(st.permutations(TIDS))[: draw(st.integers(1, 5))]
    drawn = []
    while left:
        softpos = left.pop() if draw(st.booleans()) else None
        mpos = left.pop() if left and (softpos is None or draw(st.booleans())) else None
        if softpos or mpos:
            drawn.append(TerminalPair(draw(st.sampled_from(POINTS_OF_SALE)), softpos, mpos))
    return drawn


def registry_of(dynamodb: Any, clock: Callable[[], float] = time.time) -> TerminalRegistry:
    return TerminalRegistry(dynamodb, TABLE, clock, sleep=lambda _: None)


class CrashError(BaseException):
    """The environment is gone."""


class OneAfterTheOther(RuleBasedStateMachine):
    """The registry and its model, asked for the same things."""

    def __init__(self) -> None:
        super().__init__()
        self.dynamodb = Both()
        create_table(self.dynamodb)
        self.clock = Clock(1_800_000_000.0)
        self.registry = registry_of(self.dynamodb, self.clock)
        self.model = Model()
        self.unfinished: list[tuple[float, set[str]]] = []

    def teardown(self) -> None:
        self.dynamodb.delete_table(TableName=TABLE)

    @rule(
        operation=operations(
            st.sampled_from(TIDS), st.sampled_from([ANN, ANN.upper(), ANN.lower(), BOB, BOB.title(), EVE])
        )
    )
    def asked(self, operation: Operation) -> None:
        expected, found = operation.of(self.model), operation.of(self.registry)
        assert same(found, expected), f"{operation}: {found!r}, and not {expected!r}"

    @rule(
        point_of_sale=st.sampled_from([None, *POINTS_OF_SALE]),
        state=st.sampled_from([None, "free", "held"]),
        after=st.none() | st.builds("{}#{}".format, st.sampled_from(POINTS_OF_SALE), st.sampled_from(TIDS)),
        limit=st.integers(1, 4),
    )
    def paged(self, **asked: Any) -> None:
        assert self.registry.page(**asked) == self.model.page(**asked)

    @rule(pairs=new_pairs())
    def imported(self, pairs: list[TerminalPair]) -> None:
        self.swept()
        operation = Operation("add", {"listed": listed(*pairs)})
        expected, found = operation.of(self.model), operation.of(self.registry)
        assert same(found, expected), f"{operation}: {found!r}, and not {expected!r}"

    @rule(pairs=new_pairs(), written=st.booleans())
    def an_import_crashes(self, pairs: list[TerminalPair], written: bool) -> None:
        """Before it has begun, or before its pairs become visible."""
        self.swept()

        def crash(operation: str, arguments: dict[str, Any]) -> None:
            becomes_visible = operation == "delete_item" and "ConditionExpression" in arguments
            if becomes_visible if written else operation == "put_item":
                raise CrashError

        crashing = registry_of(Watched(self.dynamodb, crash), self.clock)
        operation = Operation("add", {"listed": listed(*pairs)})
        # The model's copy imports it all, and so shows what is new.
        whole = Model(self.model.pairs)
        whole.hidden = self.model.hidden
        expected = operation.of(whole)
        if whole.pairs == self.model.pairs:
            assert same(operation.of(crashing), expected)
            return
        with pytest.raises(CrashError):
            operation.of(crashing)
        if written:
            self.unfinished.append((self.clock.now, tids_of(whole.pairs) - tids_of(self.model.pairs)))

    def swept(self) -> None:
        """Every import begins with this."""
        self.unfinished = [each for each in self.unfinished if self.clock.now - each[0] <= ABANDONED_SECONDS]
        self.model.hidden = set().union(*(tids for _, tids in self.unfinished))

    @rule(seconds=st.sampled_from([30, 61, ABANDONED_SECONDS, ABANDONED_SECONDS + 1]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def all_that_is_to_be_seen_is_the_models(self) -> None:
        assert self.registry.page() == Page(self.model.pairs, None)
        for operation in (
            *(Operation("held_by", {"email": email}) for email in (ANN, BOB, EVE)),
            *(Operation("show", {"tid": tid}) for tid in TIDS),
        ):
            assert same(operation.of(self.registry), operation.of(self.model)), f"{operation}"
        check_invariants(self.dynamodb)
        unfinished = set().union(*(tids for _, tids in self.unfinished))
        assert set(table(self.dynamodb)["tids"]) == tids_of(self.model.pairs) | unfinished


TestOneAfterTheOther = OneAfterTheOther.TestCase
TestOneAfterTheOther.settings = settings(max_examples=40, stateful_step_count=25)


# ---------------------------------------------------------------- several at once

ONE = TerminalPair("1", "s1", "m1")
ANOTHER = TerminalPair("1", "s1", "m2")
"""By the same name."""
TWO = TerminalPair("1-1", "s2", None)
TWO_IN_ONE = TerminalPair("1-1", "s2", "m1")

OPERATIONS = [
    *(
        Operation("assign", {"email": email, **wanted, "move": move})
        for email in (ANN, ANN.upper(), BOB)
        for wanted in ({"tid": "s1"}, {"tid": "m1"}, {"tid": "m2"}, {"tid": "s2"}, {}, {"point_of_sale": "1-1"})
        for move in (False, True)
    ),
    *(Operation(name, {"tid": tid}) for name in ("release", "delete", "show") for tid in ("s1", "m1", "m2", "s2")),
    *(Operation("held_by", {"email": email}) for email in (ANN, BOB)),
    *(
        Operation("add", {"listed": listed(*pairs)})
        for pairs in ([ONE], [ANOTHER], [TWO], [TWO_IN_ONE], [ONE, TWO], [TWO, ANOTHER], [TWO_IN_ONE, ANOTHER])
    ),
]
"""Few pairs and operators, so that most of these are in the way of another."""


@dataclass
class Done:
    """An operation that was asked for, and what has come of it."""

    operation: Operation
    outcome: Any = None
    began: int = 0
    ended: int = 0
    """The first and the last of its calls to DynamoDB, of all that were made."""
    fault: str = ""
    """One of FAULTS that it has had."""

    @property
    def pairs(self) -> dict[str, TerminalPair]:
        """Of an import, by place."""
        pairs: dict[str, TerminalPair] = (
            self.operation.arguments["listed"].pairs if self.operation.name == "add" else {}
        )
        return pairs

    @property
    def in_the_way(self) -> set[str]:
        """Places of an import that were refused for another import that was under way."""
        told = self.outcome.members if isinstance(self.outcome, PairsRefusedError) else {}
        return {place for place, reason in told.items() if reason.endswith("another import is bringing just now")}


FAULTS = ("crashes before", "crashes after", "fails before", "fails after")


class Turns(threading.Thread):
    """An operation that makes its next call to DynamoDB when it is told to, and then waits again."""

    def __init__(self, operation: Operation, dynamodb: Any, clock: Clock, fault: tuple[int, str] | None = None) -> None:
        super().__init__(daemon=True)
        self.done = Done(operation)
        self.over = False
        self._fault_at, self._fault = fault or (0, "")
        self._dynamodb = Watched(dynamodb, self._before, self._after)
        self._registry = registry_of(self._dynamodb, clock)
        self._go, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self.start()
        self._waits.acquire()

    def next_call(self) -> str:
        """Make the next call; what it was."""
        self._go.release()
        self._waits.acquire()
        return self._dynamodb.calls[-1 if self.over else -2]

    def end(self) -> None:
        """Whatever is left of it is not done."""
        self._fault_at, self._fault = len(self._dynamodb.calls), "crashes before"
        while not self.over:
            self.next_call()

    def run(self) -> None:
        try:
            self.done.outcome = self.done.operation.of(self._registry)
        except BaseException as error:  # noqa: BLE001 - it is the test's, and asserted there
            self.done.outcome = error
        if not isinstance(self.done.outcome, BaseException):
            self.done.fault = ""  # It got over it.
        self.over = True
        self._waits.release()

    def _before(self, operation: str, _: Any) -> None:
        if not self.done.fault.startswith("crashes"):
            self._waits.release()
            self._go.acquire()
        self._break("before", operation)

    def _after(self, operation: str, _: Any) -> None:
        self._break("after", operation)

    def _break(self, when: str, operation: str) -> None:
        if self._fault.endswith(when) and len(self._dynamodb.calls) == self._fault_at:
            self.done.fault = self._fault
            if self._fault.startswith("fails"):
                raise failed(operation)
        if self.done.fault.startswith("crashes"):
            raise CrashError


def check(pool: Model, done: list[Done], registry: TerminalRegistry) -> list[Pair]:
    """That all is explained, whatever is to be seen now. It is what is returned."""
    ended = registry.page().pairs
    deleted = [each.outcome for each in done if each.operation.name == "delete"]
    assert explained(pool, done, deleted, ended), f"{done} at {pool} left {ended}"
    for each in done:
        others = tids_of(pair for other in done if other is not each for pair in other.pairs.values())
        for place in each.in_the_way:
            assert others.intersection(each.pairs[place].terminal_ids), f"{done} at {pool}: another does bring it"
    return ended


def explained(model: Model, done: list[Done], deleted: list[Pair], ended: list[Pair]) -> bool:
    """Whether these operations, one after the other in some order, answer what they did and leave what they did.

    The order is a free one for those that overlapped. One that had ended before another began comes first.
    """
    if not done:
        return model.pairs == ended
    return any(
        explained(after, [other for other in done if other is not each], deleted, ended)
        for each in done
        if all(each.began <= other.ended for other in done)
        for after in possible(model, each, deleted)
    )


def possible(before: Model, done: Done, deleted: list[Pair]) -> Iterator[Model]:
    """What an operation may have left, given how it ended."""
    if done.fault:
        # One that is gone before its last call has done nothing: the last call is the one that changes what is seen.
        yield before
        if not done.fault.endswith("after"):
            return
    for operation, more, unchanged in readings(before, done, deleted):
        model = Model(before.pairs)
        answer = operation.of(model, **more)
        if isinstance(answer, Imported):
            answer = Imported(answer.imported, answer.unchanged + unchanged)
        expected = done.outcome
        if isinstance(expected, PairsRefusedError):
            # That it was in the way of another, and the other in its, no order explains, but all else that it says.
            told = {place: reason for place, reason in expected.members.items() if place not in done.in_the_way}
            expected = PairsRefusedError(told) if told else answer
        if done.fault or same(answer, expected):
            yield before if isinstance(done.outcome, PairsRefusedError) else model


def readings(before: Model, done: Done, deleted: list[Pair]) -> Iterator[tuple[Operation, dict[str, Any], int]]:
    """What may be expected of an operation in the company of others: another choice, or so many pairs unchanged."""
    first_free = done.operation.name == "assign" and "tid" not in done.operation.arguments
    for at in range(len(before.pairs) or 1) if first_free else range(1):
        # Those who come too late for the first one get any.
        yield done.operation, {"choose": lambda would_do, at=at: would_do[at % len(would_do)]} if first_free else {}, 0
    # An import counts as unchanged what was there when it looked, although that was deleted before it had ended.
    gone = [place for place, pair in done.pairs.items() if pair in deleted]
    apart = done.in_the_way if isinstance(done.outcome, PairsRefusedError) else set()
    for places in itertools.chain.from_iterable(itertools.combinations(gone, n) for n in range(len(gone) + 1)):
        rest = {place: pair for place, pair in done.pairs.items() if place not in {*places, *apart}}
        if len(rest) < len(done.pairs):
            yield Operation("add", {"listed": PairList(rest)}), {}, len(places)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports of several transactions and reads of several pages, although the table is small."""
    monkeypatch.setattr("softpos.terminals._ACTIONS", 3)
    monkeypatch.setattr("softpos.terminals._CHOICE", 2)
    monkeypatch.setattr("softpos.terminals._random", random.Random(0))


@st.composite
def pools(draw: st.DrawFn) -> Model:
    """A pair or two, free or held."""
    pairs = draw(st.sampled_from([[ONE], [ONE, TWO], [ANOTHER, TWO_IN_ONE], [TWO], []]))
    operators = draw(st.permutations([ANN, BOB]))
    return Model(given_to(pair, operators.pop()) if draw(st.booleans()) else pair for pair in pairs)


def effects(pool: Model) -> list[list[Operation]]:
    """The operations that change something, those together that leave the same."""
    by_effect: dict[str, list[Operation]] = {}
    for operation in OPERATIONS:
        after = Model(pool.pairs)
        operation.of(after)
        if after.pairs != pool.pairs:
            by_effect.setdefault(repr(after), []).append(operation)
    return list(by_effect.values())


@st.composite
def changes(draw: st.DrawFn, pool: Model) -> list[Operation]:
    """Operations that change something, each of what the one before has left."""
    drawn: list[Operation] = []
    for _ in range(draw(st.integers(1, 3))):
        drawn.append(draw(st.sampled_from(draw(st.sampled_from(effects(pool))))))
        pool = Model(pool.pairs)
        drawn[-1].of(pool)
    return drawn


def filled(pool: Model) -> InMemory:
    """DynamoDB with these pairs."""
    dynamodb: Any = InMemory()
    registry = registry_of(dynamodb)
    registry.add(listed(*map(free, pool.pairs)))
    for pair in pool.pairs:
        if isinstance(pair, Assignment):
            registry.assign(pair.operator, pair.terminal_ids[0])
    return dynamodb


def interleave(running: list[Turns], data: st.DataObject, made: Callable[[], None]) -> None:
    """Let them make their calls, in whatever order; `made` is told of each that may have changed something."""
    count = 0
    while left := [each for each in running if not each.over]:
        turn = left[data.draw(st.integers(0, min(1, len(left) - 1)) | st.integers(0, len(left) - 1))]
        for _ in range(data.draw(st.sampled_from([1, 2, 3, 100]))):
            if not turn.over:
                count += 1
                turn.done.began = turn.done.began or count
                turn.done.ended = count
                if turn.next_call() not in ("get_item", "batch_get_item", "query"):
                    made()


@pytest.mark.usefixtures("narrow")
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pool=pools(),
    operation=st.sampled_from(OPERATIONS),
    fault=st.none() | st.tuples(st.integers(0, 3), st.integers(1, 12), st.sampled_from(FAULTS)),
    data=st.data(),
)
def test_whatever_happens_at_once_some_order_explains_it(
    pool: Model, operation: Operation, fault: tuple[int, int, str] | None, data: st.DataObject
) -> None:
    terminals._random.seed(0)
    dynamodb, clock = filled(pool), Clock(1_800_000_000.0)
    registry = registry_of(dynamodb, clock)
    running: list[Turns] = []
    try:
        for at, asked in enumerate([operation, *data.draw(changes(pool))]):
            running.append(Turns(asked, dynamodb, clock, fault[1:] if fault and fault[0] == at else None))
        interleave(running, data, made=lambda: check_invariants(dynamodb))
        nothing_is_left(dynamodb, registry, clock, check(pool, [each.done for each in running], registry))
    finally:
        for each in running:
            each.end()


def paths(pool: Model, most: int) -> Iterator[list[Operation]]:
    """Up to so many operations that change something, each of what the one before has left: one for each effect."""
    for operations in effects(pool) if most else []:
        yield operations[:1]
        after = Model(pool.pairs)
        operations[0].of(after)
        for path in paths(after, most - 1):
            yield [operations[0], *path]


def matters(pool: Model, operation: Operation, path: list[Operation]) -> bool:
    """Whether it makes a difference when an operation comes, before or after any of those others."""
    found = set()
    for at in range(len(path) + 1):
        model = Model(pool.pairs)
        outcomes = [each.of(model) for each in (*path[:at], operation, *path[at:])]
        found.add(repr((model, outcomes.pop(at), outcomes)))
    return len(found) > 1


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("pairs", "most"),
    [
        pytest.param([], 2, id="empty"),
        pytest.param([ONE], 2, id="one-free"),
        pytest.param([given_to(ONE, ANN)], 3, id="one-held"),
        pytest.param([ONE, TWO], 2, id="two-free"),
        pytest.param([given_to(ONE, ANN), TWO], 2, id="one-of-two-held"),
        pytest.param([given_to(ONE, ANN), given_to(TWO, BOB)], 2, id="two-held"),
    ],
)
def test_before_whichever_of_its_calls_others_come_some_order_explains_it(pairs: list[Pair], most: int) -> None:
    """Every operation, interrupted before every call, by all that others may do and that makes a difference to it."""
    pool = Model(pairs)
    full = filled(pool)
    for path, operation in itertools.product(paths(pool, most), OPERATIONS):
        for n in itertools.count(1) if matters(pool, operation, path) else ():
            dynamodb: Any = InMemory(full.items)
            registry = registry_of(dynamodb)
            done = [Done(each, began=at, ended=at) for at, each in enumerate(path, 1)]

            def interrupt(done: list[Done] = done, registry: TerminalRegistry = registry) -> None:
                for each in done:
                    each.outcome = each.operation.of(registry)

            watched: Any = Watched(dynamodb, nth(n, interrupt))
            outcome = operation.of(registry_of(watched))
            if done[0].outcome is None:
                break
            check_invariants(dynamodb)
            check(pool, [Done(operation, outcome, 1, len(path)), *done], registry)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    "pairs", [[], [TWO], [ONE, TWO], [given_to(ONE, ANN), TWO]], ids=["empty", "one-free", "two-free", "one-held"]
)
@pytest.mark.parametrize("fault", FAULTS)
def test_at_whichever_of_its_calls_it_ends_it_is_done_or_not_and_never_by_halves(pairs: list[Pair], fault: str) -> None:
    """Every operation, and DynamoDB that fails or an environment that is gone: before a call, or before its answer."""
    pool = Model(pairs)
    full = filled(pool)
    for operation in OPERATIONS:
        for n in itertools.count(1):
            dynamodb, clock = InMemory(full.items), Clock(1_800_000_000.0)
            done = Done(operation)

            def end(done: Done = done) -> None:
                done.fault = fault
                raise failed("") if fault.startswith("fails") else CrashError

            ending = nth(n, end)
            watched = Watched(dynamodb, *((ending,) if fault.endswith("before") else (None, ending)))
            try:
                done.outcome = operation.of(registry_of(watched, clock))
            except CrashError as crash:
                done.outcome = crash
            if not done.fault:
                break
            check_invariants(dynamodb)
            registry = registry_of(dynamodb, clock)
            nothing_is_left(dynamodb, registry, clock, check(pool, [done], registry))


def nothing_is_left(dynamodb: Any, registry: TerminalRegistry, clock: Clock, seen: list[Pair]) -> None:
    """Of whatever has failed, in time, nothing is left, and nothing else is missing."""
    clock.now += ABANDONED_SECONDS + 1
    another = TerminalPair("9", "another", None)
    registry.add(listed(another))
    at = table(dynamodb)
    assert sorted(at["free"] | at["held"]) == [*(pair.name for pair in seen), another.name]
    assert registry.page().pairs == [*seen, another]
    check_invariants(dynamodb)
