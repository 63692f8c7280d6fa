"""The registry: which operator holds which terminal pair. Nexi ties a TID to one operator at a time; here is where.

An operator holds at most one pair, a pair is held by at most one operator, a TID is in one pair only. Whatever is done,
by however many at once, is read, decided, and committed in one DynamoDB transaction on condition that nothing of what
was read has changed; if something has, it is done again from the start.

`TERMINALS_TABLE` has five collections (`pk`), each sorted by name (`sk`):

- `operators`: by e-mail without regard to case, what the operator holds. The one item that an enrollment reads.
- `free`, `held`: by `<point of sale>#<first TID>`, the pairs of the pool. A pair is in one of the two.
- `tids`: by TID, the pair that it is in.
- `imports`: those that have not become visible. Pairs name the import that brought them, and are not there for anyone
  until it is gone from here, so that an import of any size becomes visible at once, or not at all.
"""

import functools
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from softpos import aws, operators
from softpos.aws import error_code
from softpos.errors import (
    MalformedPairError,
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
from softpos.pairs import MAX_PAIRS, PairList, TerminalPair, is_identifier
from softpos.settings import settings

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

ATTEMPTS = 20
"""How often something is tried while others keep changing what it is about. The pauses are four seconds at the most."""

ABANDONED_SECONDS = 300.0
"""An import that has not become visible after this time never will: its function has ended long ago."""

_ACTIONS = 100
"""The most that DynamoDB takes in one transaction, and in one batch of reads."""

_CHOICE = 50
"""Of so many free pairs, those who came too late for the first one take any, so that they do not meet again."""

_FORGET_SECONDS = 60.0
"""For so long, readers may be under way that saw pairs of an import that has failed."""

_BUSY_REMEDY = "nothing, if it passes; if it lasts, look at the table's throttling metrics"
_TRANSIENT = {"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded", "RequestLimitExceeded"}

# Not the module's own: copies of one SnapStart snapshot would all draw the same "jitter".
_random = random.SystemRandom()

_Item = dict[str, Any]
"""Attributes as DynamoDB has them: a type and a value each."""


@dataclass(frozen=True, slots=True)
class Assignment(TerminalPair):
    """A pair, and who holds it."""

    operator: str
    """E-mail, spelled as Nexi and the SDK have it: the assertion's `app_username_merchant`."""


@dataclass(frozen=True, slots=True)
class Page:
    """Pairs of the pool, sorted by point of sale and TID, and what to ask for the next ones after, if there are any."""

    pairs: list[TerminalPair | Assignment]
    after: str | None


@dataclass(frozen=True, slots=True)
class Imported:
    """How many pairs are new, and how many were there already."""

    imported: int
    unchanged: int


@dataclass(frozen=True, slots=True)
class _Pooled:
    """A pair as it was read, and the import that brought it: what transactions are conditional on."""

    pair: TerminalPair
    imported: str

    @property
    def holder(self) -> str:
        return self.pair.operator if isinstance(self.pair, Assignment) else ""

    def held(self, operator: str) -> Assignment:
        return Assignment(self.pair.point_of_sale, self.pair.softpos_tid, self.pair.mpos_tid, operator)

    def free(self) -> TerminalPair:
        return TerminalPair(self.pair.point_of_sale, self.pair.softpos_tid, self.pair.mpos_tid)


class TerminalRegistry:
    """The terminals table. Nothing is cached: what is taken away is gone with the next call.

    Every method raises MisconfiguredError when the table cannot be used, what aws.failure says when DynamoDB
    fails, and RegistryBusyError when it throttles, or when others kept changing what was to be changed.
    """

    def __init__(
        self,
        dynamodb: "DynamoDBClient",
        table: str,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._dynamodb = dynamodb
        self._table = table
        self._now = now
        self._sleep = sleep

    # ---------------------------------------------------------------- reading

    def held_by(self, email: str) -> Assignment:
        """What the operator holds, by one strongly consistent read. The e-mail's case does not matter.

        Raises TerminalNotAssignedError when that is nothing, MisconfiguredError when the item is not as it should be.
        """
        held = self._held_by(email)
        if held is None:
            raise TerminalNotAssignedError("the operator holds no terminal", "assign one to the operator")
        return held.held(held.holder)

    def show(self, tid: str) -> TerminalPair | Assignment:
        """The pair with this TID. Raises TerminalUnknownError."""
        return self._pooled(tid, self._further_attempts()).pair

    def page(
        self,
        point_of_sale: str | None = None,
        state: Literal["free", "held"] | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page:
        """Up to `limit` pairs. Not a snapshot: a pair that changes hands meanwhile may be missing."""
        found: dict[str, TerminalPair | Assignment] = {}
        # A pair that was assigned between the two reads shows as held.
        for collection in ("free", "held"):
            if state in (None, collection):
                pooled = self._pool(collection, point_of_sale, after, limit + 1)
                found |= {each.pair.name: each.pair for each in pooled}
        names = sorted(found)
        return Page([found[name] for name in names[:limit]], names[limit - 1] if len(names) > limit else None)

    def page_of(self, email: str) -> Page:
        """The pair that the operator holds, and no other."""
        held = self._held_by(email)
        return Page([held.pair] if held else [], None)

    # ---------------------------------------------------------------- changing

    def assign(
        self, email: str, tid: str | None = None, point_of_sale: str | None = None, *, move: bool = False
    ) -> Assignment:
        """Give the operator the pair with this TID; without one, the first free pair of the point of sale, or of all.

        Who holds what is asked for already, keeps it. Who holds another pair leaves it in the same transaction if this
        is to `move` them. Raises TerminalUnknownError, TerminalHeldError or NoTerminalFreeError for the pair,
        OperatorHoldsTerminalError, or TerminalNotAssignedError on a move, for the operator.
        """
        attempts = self._attempts()
        while True:
            attempt = next(attempts)
            held = self._held_by(email)
            try:
                wanted = self._wanted(email, tid, point_of_sale, held, attempts, move=move, first=attempt == 0)
            except SoftposError:
                # What was found after that may be later than what the operator held: both, or neither.
                if self._held_by(email) != held:
                    continue
                raise
            if held and wanted == held:
                return held.held(held.holder)
            if wanted.holder or (held and wanted.pair.name == held.pair.name):
                # The operator holds it since the first read, or did until then: what was read is of two moments.
                continue
            given = wanted.held(held.holder if held else email)
            if self._commit([*(self._freeing(held) if held else []), *self._taking(wanted, given, held)], attempts):
                return given

    def release(self, tid: str) -> TerminalPair:
        """Take the pair with this TID from whoever holds it, if anyone does. Raises TerminalUnknownError."""
        attempts = self._attempts()
        while True:
            next(attempts)
            pooled = self._pooled(tid, attempts)
            if not pooled.holder:
                return pooled.pair
            operator = self._delete("operators", operators.key(pooled.holder), pair=pooled.pair.name)
            if self._commit([*self._freeing(pooled), operator], attempts):
                return pooled.free()

    def delete(self, tid: str) -> TerminalPair:
        """Take the pair with this TID out of the pool. Raises TerminalUnknownError, or TerminalHeldError."""
        attempts = self._attempts()
        while True:
            next(attempts)
            pooled = self._pooled(tid, attempts)
            if pooled.holder:
                raise TerminalHeldError("the pair is held", "release it first")
            if self._commit(self._removing(pooled), attempts):
                return pooled.pair

    def add(self, listed: PairList) -> Imported:
        """Import pairs: all of them become visible at once, or none. Those that are there already stay as they are.

        Raises PairsRefusedError with all that is wrong, what the list itself says of it included.
        """
        self._sweep()
        attempts = self._attempts()
        while True:
            next(attempts)
            markers = self._markers(listed)
            try:
                new = self._new(listed, markers)
            except PairsRefusedError:
                # They are read a hundred at a time: half of what someone has changed meanwhile is no reason.
                if self._markers(listed) != markers:
                    continue
                raise
            if not new or self._bring(new):
                return Imported(len(new), len(listed.pairs) - len(new))

    # ---------------------------------------------------------------- what is there

    def _held_by(self, email: str) -> _Pooled | None:
        item = self._item("operators", operators.key(email))
        if item is None:
            return None
        held = _pooled(item)
        # Nobody enrolls under another's name.
        if held is None or operators.key(held.holder) != operators.key(email):
            raise MalformedPairError(
                "the operator's item in TERMINALS_TABLE is another's, or lacks operator, point_of_sale or every TID",
                "Delete it, and assign a terminal again: `softpos terminals assign`.",
            )
        return held

    def _pooled(self, tid: str, attempts: Iterator[int]) -> _Pooled:
        while True:
            marker = self._item("tids", tid) if is_identifier(tid) else None
            marked = _pooled(marker) if marker else None
            if marker is None or marked is None or not self._visible([marker]):
                raise TerminalUnknownError("the pool has no pair with this TID", "import it, or look at the list")
            for collection in ("held", "free"):
                item = self._item(collection, marked.pair.name)
                found = _pooled(item) if item else None
                if found and found.imported == marked.imported:
                    return found
            # It has changed hands between the two reads, or is gone, and perhaps another has its name.
            next(attempts)

    def _wanted(
        self,
        email: str,
        tid: str | None,
        point_of_sale: str | None,
        held: _Pooled | None,
        attempts: Iterator[int],
        *,
        move: bool,
        first: bool,
    ) -> _Pooled:
        """The pair that an operator who holds this one is to have, or what it is by now. Raises as `assign` does."""
        if held is None and move:
            raise TerminalNotAssignedError("the operator holds no terminal to move from", "assign one instead")
        wanted = self._pooled(tid, attempts) if tid else None
        if held and (wanted == held if wanted else point_of_sale in (None, held.pair.point_of_sale)):
            return held
        same = held and wanted and wanted.pair.name == held.pair.name
        if held and not move and not same:
            raise OperatorHoldsTerminalError("the operator holds another pair", "release it, or move the operator")
        if wanted is None:
            return self._some_free(point_of_sale, first=first)
        if wanted.holder and operators.key(wanted.holder) != operators.key(email):
            raise TerminalHeldError("the pair is held by another operator", "release it first")
        return wanted

    def _some_free(self, point_of_sale: str | None, *, first: bool) -> _Pooled:
        free = self._pool("free", point_of_sale, None, 1 if first else _CHOICE)
        if not free:
            raise NoTerminalFreeError("every pair that would do is held", "release one, or import more")
        return _random.choice(free)

    def _pool(self, collection: str, point_of_sale: str | None, after: str | None, limit: int) -> list[_Pooled]:
        """The first so many visible pairs of a collection that come after a name, of one point of sale or of all."""
        # In ASCII's order: "!" comes before all that names are made of, "$" is next to the "#" after a point of sale.
        low, high = (f"{point_of_sale}#", f"{point_of_sale}$") if point_of_sale else ("!", "~")
        found: list[_Pooled] = []
        size = limit
        while len(found) < limit:
            low = max(low, f"{after}!" if after else "")
            items = self._query(collection, low, high, size)
            found += [pooled for item in self._visible(items) if (pooled := _pooled(item))]
            if len(items) < size:
                break
            after = _text(items[-1], "sk")
            # Some are not visible. A whole import may not be: not one by one.
            size = MAX_PAIRS
        return found[:limit]

    def _visible(self, items: list[_Item]) -> list[_Item]:
        # Asked for after the items: an import that is not among these any more has become visible before that.
        hidden = {_text(each, "sk") for each in self._query("imports")} if items else set()
        return [item for item in items if _text(item, "imported") not in hidden]

    # ---------------------------------------------------------------- what transactions are made of

    def _taking(self, wanted: _Pooled, given: Assignment, held: _Pooled | None) -> list[_Item]:
        attributes = {**_attributes(given), "imported": wanted.imported}
        before = held.pair.name if held else None
        return [
            self._delete("free", given.name, imported=wanted.imported),
            self._put("held", given.name, attributes),
            self._put("operators", operators.key(given.operator), {**attributes, "pair": given.name}, pair=before),
        ]

    def _freeing(self, held: _Pooled) -> list[_Item]:
        return [
            self._delete("held", held.pair.name, operator=held.holder, imported=held.imported),
            self._put("free", held.pair.name, {**_attributes(held.free()), "imported": held.imported}),
        ]

    def _adding(self, pair: TerminalPair, imported: str) -> list[_Item]:
        attributes = {**_attributes(pair), "imported": imported}
        return [
            self._put("free", pair.name, attributes),
            *(self._put("tids", tid, attributes) for tid in pair.terminal_ids),
        ]

    def _removing(self, free: _Pooled) -> list[_Item]:
        return [
            self._delete("free", free.pair.name, imported=free.imported),
            *(self._delete("tids", tid, imported=free.imported) for tid in free.pair.terminal_ids),
        ]

    def _put(self, collection: str, name: str, attributes: dict[str, str], **instead_of: str | None) -> _Item:
        """To write an item where none is, or instead of one with these attributes."""
        item = {**_key(collection, name), **{each: {"S": value} for each, value in attributes.items()}}
        return {"Put": {"TableName": self._table, "Item": item, **_condition(instead_of)}}

    def _delete(self, collection: str, name: str, **expected: str | None) -> _Item:
        """To remove an item that has these attributes."""
        return {"Delete": {"TableName": self._table, "Key": _key(collection, name), **_condition(expected)}}

    # ---------------------------------------------------------------- imports

    def _markers(self, listed: PairList) -> dict[str, _Item]:
        """Those of the listed TIDs that are taken."""
        # Once each: DynamoDB refuses to be asked twice for a TID that the list has twice.
        tids = dict.fromkeys(tid for pair in listed.pairs.values() for tid in pair.terminal_ids)
        return self._items("tids", list(tids))

    def _new(self, listed: PairList, markers: dict[str, _Item]) -> list[TerminalPair]:
        """Those of the listed pairs that the pool lacks. Raises PairsRefusedError."""
        visible = {_text(item, "sk") for item in self._visible(list(markers.values()))}
        new, problems = [], dict(listed.problems)
        for place, pair in listed.pairs.items():
            taken = [tid for tid in pair.terminal_ids if tid in markers]
            if not taken:
                new.append(pair)
            elif not visible.issuperset(taken):
                problems[place] = f"has {' and '.join(taken)}, which another import is bringing just now"
            elif len(taken) < len(pair.terminal_ids) or any(_pair(markers[tid]) != pair for tid in taken):
                problems[place] = f"has {' and '.join(taken)}, which the pool has in another pair"
        if problems:
            raise PairsRefusedError(problems)
        return new

    def _bring(self, new: Sequence[TerminalPair]) -> bool:
        """Whether these pairs have become visible; if not, others were quicker, and nothing of these is left."""
        name = uuid.uuid4().hex
        self._call("put_item", Item={**_key("imports", name), "started_at": {"N": f"{self._now():.3f}"}})
        try:
            if self._commit_each(self._adding(pair, name) for pair in new) and self._become_visible(name):
                return True
        except SoftposError:
            self._undo(name)
            raise
        return not self._undo(name)

    def _become_visible(self, name: str) -> bool:
        condition = "attribute_exists(sk) AND attribute_not_exists(void_at)"
        return self._conditionally("delete_item", Key=_key("imports", name), ConditionExpression=condition)

    def _undo(self, name: str) -> bool:
        """Remove the pairs of an import. False if it has become visible after all, and stays."""
        if not self._conditionally(
            "update_item",
            Key=_key("imports", name),
            UpdateExpression="SET void_at = if_not_exists(void_at, :now)",
            ConditionExpression="attribute_exists(sk)",
            ExpressionAttributeValues={":now": {"N": f"{self._now():.3f}"}},
        ):
            return False
        attempts = self._attempts()
        while left := self._brought_by(name):
            next(attempts)
            # Others may be at it, too: what they have removed is not there at the next look.
            self._commit_each(self._removing(each) for each in left)
        return True

    def _brought_by(self, name: str) -> list[_Pooled]:
        """The pairs of an import that is not visible: nobody holds them."""
        return [each for item in self._query("free") if (each := _pooled(item)) and each.imported == name]

    def _sweep(self) -> None:
        """Undo imports that ended before they were visible, and forget those that were undone a while ago."""
        for item in self._query("imports"):
            name, void_at = _text(item, "sk"), _number(item, "void_at")
            if void_at and self._now() - void_at > _FORGET_SECONDS and not self._brought_by(name):
                self._call("delete_item", Key=_key("imports", name))
            elif void_at or self._now() - _number(item, "started_at") > ABANDONED_SECONDS:
                self._undo(name)

    # ---------------------------------------------------------------- DynamoDB

    def _attempts(self) -> Iterator[int]:
        """Counts, with a pause in between. Raises RegistryBusyError after ATTEMPTS."""
        for attempt in range(ATTEMPTS):
            yield attempt
            self._sleep(_random.uniform(0.0, min(0.24, 0.01 * 2**attempt)))
        raise RegistryBusyError(
            "others kept changing what was to be changed, or DynamoDB kept throttling", _BUSY_REMEDY
        )

    def _further_attempts(self) -> Iterator[int]:
        """Those after the first."""
        attempts = self._attempts()
        next(attempts)
        return attempts

    def _commit_each(self, groups: Iterable[list[_Item]]) -> bool:
        """Commit groups of actions, as many groups as fit in each transaction. Whether all were."""
        actions: list[_Item] = []
        for group in groups:
            if len(actions) + len(group) > _ACTIONS:
                if not self._commit(actions, self._further_attempts()):
                    return False
                actions = []
            actions += group
        return not actions or self._commit(actions, self._further_attempts())

    def _commit(self, actions: list[_Item], attempts: Iterator[int]) -> bool:
        """Whether all of it was done. If not, nothing was: something has changed since it was read."""
        from botocore.exceptions import BotoCoreError, ClientError

        while True:
            try:
                self._dynamodb.transact_write_items(TransactItems=actions)  # type: ignore[arg-type]  # plain dicts
            except (BotoCoreError, ClientError) as error:
                reasons = _reasons(error)
                if "ConditionalCheckFailed" in reasons:
                    return False
                if not reasons or not reasons <= _TRANSIENT:
                    raise _failure(error) from error
                next(attempts)
            else:
                return True

    def _item(self, collection: str, name: str) -> _Item | None:
        answer = self._call("get_item", Key=_key(collection, name), ConsistentRead=True)
        item: _Item | None = answer.get("Item")
        return item

    def _items(self, collection: str, names: list[str]) -> dict[str, _Item]:
        found: dict[str, _Item] = {}
        attempts = self._attempts()
        while names:
            wanted = {"Keys": [_key(collection, name) for name in names[:_ACTIONS]], "ConsistentRead": True}
            answer = self._call("batch_get_item", table=False, RequestItems={self._table: wanted})
            found |= {_text(item, "sk"): item for item in answer["Responses"].get(self._table, [])}
            left = answer.get("UnprocessedKeys", {}).get(self._table, {}).get("Keys", [])
            if left:
                next(attempts)
            names = [_text(key, "sk") for key in left] + names[_ACTIONS:]
        return found

    def _query(self, collection: str, low: str = "!", high: str = "~", limit: int | None = None) -> list[_Item]:
        """Items of a collection from one name to another, by strongly consistent reads."""
        found: list[_Item] = []
        more: dict[str, Any] = {"Limit": limit} if limit else {}
        # DynamoDB refuses a range that is the wrong way round, where it is simply empty.
        while low <= high:
            answer = self._call(
                "query",
                KeyConditionExpression="pk = :pk AND sk BETWEEN :low AND :high",
                ExpressionAttributeValues={":pk": {"S": collection}, ":low": {"S": low}, ":high": {"S": high}},
                ConsistentRead=True,
                **more,
            )
            found += answer["Items"]
            if "LastEvaluatedKey" not in answer or (limit and len(found) >= limit):
                break
            more["ExclusiveStartKey"] = answer["LastEvaluatedKey"]
        return found

    def _conditionally(self, operation: str, **arguments: Any) -> bool:
        try:
            self._call(operation, **arguments)
        except SoftposError as error:
            if (
                isinstance(error.__cause__, Exception)
                and error_code(error.__cause__) == "ConditionalCheckFailedException"
            ):
                return False
            raise
        return True

    def _call(self, operation: str, *, table: bool = True, **arguments: Any) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            named = {"TableName": self._table} if table else {}
            answer: dict[str, Any] = getattr(self._dynamodb, operation)(**named, **arguments)
        except (BotoCoreError, ClientError) as error:
            raise _failure(error) from error
        return answer


@functools.cache
def registry() -> TerminalRegistry:
    """The execution environment's registry. Built on first use; a failure is not cached."""
    return TerminalRegistry(aws.client("dynamodb"), settings().terminals_table)


def _key(collection: str, name: str) -> _Item:
    return {"pk": {"S": collection}, "sk": {"S": name}}


def _condition(expected: dict[str, str | None]) -> dict[str, Any]:
    """That an item has these attributes; None, or nothing expected, says that there is no item."""
    if not expected or None in expected.values():
        return {"ConditionExpression": "attribute_not_exists(sk)"}
    return {
        "ConditionExpression": " AND ".join(f"#{name} = :{name}" for name in expected),
        "ExpressionAttributeNames": {f"#{name}": name for name in expected},
        "ExpressionAttributeValues": {f":{name}": {"S": value} for name, value in expected.items()},
    }


def _attributes(pair: TerminalPair) -> dict[str, str]:
    return {name: value for name, value in asdict(pair).items() if value}


def _pooled(item: _Item) -> _Pooled | None:
    pair = _pair(item)
    return None if pair is None else _Pooled(pair, _text(item, "imported"))


def _pair(item: _Item) -> TerminalPair | None:
    """The pair that an item says, held if it says by whom; None when it says none."""
    names = ("point_of_sale", "softpos_tid", "mpos_tid", "operator")
    point_of_sale, softpos_tid, mpos_tid, operator = (_text(item, name) for name in names)
    if not point_of_sale or not (softpos_tid or mpos_tid):
        return None
    if operator:
        return Assignment(point_of_sale, softpos_tid or None, mpos_tid or None, operator)
    return TerminalPair(point_of_sale, softpos_tid or None, mpos_tid or None)


def _text(item: _Item, name: str) -> str:
    return str(item.get(name, {}).get("S", ""))


def _number(item: _Item, name: str) -> float:
    return float(item.get(name, {}).get("N", 0))


def _reasons(error: Exception) -> set[str]:
    """Why a transaction was cancelled."""
    response = getattr(error, "response", None) or {}
    if error_code(error) in ("TransactionConflictException", "TransactionInProgressException"):
        # The second: botocore has sent it twice, and the first has not ended. The next one finds what it has done.
        return {"TransactionConflict"}
    return {reason.get("Code", "None") for reason in response.get("CancellationReasons", [])} - {"None"}


def _failure(error: Exception) -> SoftposError:
    code = error_code(error)
    if code in ("ResourceNotFoundException", "AccessDeniedException", "ValidationException"):
        return MisconfiguredError(
            f"the table that TERMINALS_TABLE names cannot be used ({code})",
            "let it be the stack's terminals table, and the function's role do with it what template.yaml grants",
        )
    if code in ("ProvisionedThroughputExceededException", "RequestLimitExceeded", "ThrottlingException"):
        return RegistryBusyError(f"DynamoDB throttles TERMINALS_TABLE ({code})", _BUSY_REMEDY)
    return aws.failure("DynamoDB failed for TERMINALS_TABLE", error)
