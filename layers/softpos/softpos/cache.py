"""What is fetched once and used by many: Nexi's access token and its JWKS, and nothing that belongs to one operator.

Two tiers: the memory of the execution environment, then an item in `CACHE_TABLE` that all environments share. What an
item says is sealed with a key that whoever can read or write the table does not have; what does not open is a miss.
When the table fails, memory and Nexi go on alone.
"""

import base64
import functools
import json
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from softpos import aws, telemetry
from softpos.aws import error_code
from softpos.deadline import Deadline
from softpos.errors import OutOfTimeError, SoftposError
from softpos.seal import Seal
from softpos.settings import settings

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

LEASE_SECONDS = 6.0
"""For how long one environment may fetch while the others wait: longer than a call to Nexi takes, but for one that
trickles in."""

TABLE_PAUSE_SECONDS = 30.0
"""For how long a table that failed is left alone, so that not every enrollment waits for it."""

STALE_RETRY_SECONDS = 60.0
"""For how long a stale entry serves before Nexi is asked again."""

_RELEASE_SECONDS = 0.3
"""Maximum time to give a lease back, beyond the deadline if need be."""

_ALONE_SECONDS = 3.0
"""What must be left of the deadline to go to Nexi alone instead of waiting on."""

# Not the module's own: copies of one SnapStart snapshot would all draw the same "jitter".
_random = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Entry:
    """A value, and Unix times: since when it is, until when it may be used, and until when in Nexi's absence."""

    value: bytes = field(repr=False)
    fetched_at: float
    usable_until: float
    stale_until: float = 0.0
    version: str = field(default_factory=lambda: uuid.uuid4().hex)

    def usable(self, at: float) -> bool:
        """Whether it may be used at that Unix time."""
        # fetched_at in the future: the clock went back, and usable_until says nothing any more.
        return self.fetched_at <= at + 60 and at < self.usable_until


class Cache:
    """Both tiers. What is shared is under `seal`, which is of one application and certificate."""

    def __init__(
        self,
        seal: Seal,
        table: "CacheTable | None" = None,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._seal = seal
        self._table = table
        self._now = now
        self._sleep = sleep
        self._memory: dict[str, Entry] = {}

    def get(
        self,
        name: str,
        fetch: Callable[[], Entry],
        deadline: Deadline,
        *,
        usable_for: float = 0.0,
        fit: Callable[[Entry], bool] = lambda _entry: True,
    ) -> Entry:
        """The entry called `name`: from memory, from the table, or from `fetch`, which one environment calls for all.

        Entries that are not `fit` are passed over. With `usable_for`, one that is shared and stays usable for so many
        seconds: memory is asked only when the table fails. Else, when `fetch` fails, an older entry serves until its
        `stale_until`. Raises what `fetch` raises.
        """
        held = self._memory.get(name)
        if held is not None and not usable_for and held.usable(self._now()) and fit(held):
            return held
        try:
            entry = self._fly(name, fetch, deadline, usable_for, fit)
        except SoftposError:
            stale = self._memory.get(name)
            if usable_for or stale is None or not fit(stale) or self._now() >= stale.stale_until:
                raise
            telemetry.note(stale=name)
            telemetry.count("StaleKeysServed")
            # In memory alone: the others find out by themselves.
            entry = replace(stale, usable_until=min(self._now() + STALE_RETRY_SECONDS, stale.stale_until))
        self._memory[name] = entry
        return entry

    def _fly(
        self,
        name: str,
        fetch: Callable[[], Entry],
        deadline: Deadline,
        usable_for: float,
        fit: Callable[[Entry], bool],
    ) -> Entry:
        """Single flight: read; if that misses, fetch under a lease; if another holds the lease, wait and read again."""
        holder = uuid.uuid4().hex
        pause = 0.05
        table = self._table
        while table is not None and (item := table.read(name)) is not None:
            entry = self._opened(name, item.sealed)
            if entry is not None:
                if entry.usable(self._now() + usable_for) and fit(entry):
                    telemetry.count("CacheTableHit")
                    return entry
                held = self._memory.get(name)
                if held is None or held.fetched_at < entry.fetched_at:
                    # For the case that Nexi fails.
                    self._memory[name] = entry
            if not item.leased(self._now()) and table.lease(name, holder, item.version, self._now()):
                return self._fetch_leased(table, name, holder, fetch)
            if deadline.remaining() < _ALONE_SECONDS:
                break
            self._sleep(pause * _random.uniform(0.5, 1.0))
            pause = min(2 * pause, 0.5)
        held = self._memory.get(name)
        if held is not None and held.usable(self._now() + usable_for) and fit(held):
            return held
        return fetch()

    def _fetch_leased(self, table: "CacheTable", name: str, holder: str, fetch: Callable[[], Entry]) -> Entry:
        try:
            entry = fetch()
        except BaseException:
            # Even when no time is left: otherwise all others wait for the lease to end.
            with Deadline(_RELEASE_SECONDS).applied():
                table.release(name, holder)
            raise
        # The times are sealed, too: whoever can write the table must not be able to stretch them.
        members = [entry.fetched_at, entry.usable_until, entry.stale_until, entry.version]
        plain = json.dumps([base64.b64encode(entry.value).decode(), *members])
        table.write(name, holder, self._seal.close(name, plain.encode()), entry)
        return entry

    def _opened(self, name: str, sealed: bytes) -> Entry | None:
        plain = self._seal.open(name, sealed)
        if plain is None:
            return None
        value, *members = json.loads(plain)
        return Entry(base64.b64decode(value), *members)


@dataclass(frozen=True, slots=True)
class _Item:
    sealed: bytes = field(repr=False)
    version: str | None
    lease_until: float

    def leased(self, now: float) -> bool:
        # A lease far ahead of any that we would take was not taken by us: it is as good as none.
        return now < self.lease_until < now + 2 * LEASE_SECONDS


class CacheTable:
    """The shared tier: `{"id", "version", "sealed", "expires_at", "holder", "lease_until"}`. Never raises.

    Beside the cache it counts, for limits that all environments share: `{"id", "admitted", "expires_at"}`.

    A call that fails says so with None or False, a metric and a field of the log line, and the table is then left alone
    for TABLE_PAUSE_SECONDS.
    """

    def __init__(self, dynamodb: "DynamoDBClient", table: str, now: Callable[[], float] = time.time) -> None:
        self._dynamodb = dynamodb
        self._table = table
        self._now = now
        self._resume_at = 0.0

    def read(self, name: str) -> _Item | None:
        """What is there, by a strongly consistent read; an empty item when nothing is; None when the table fails."""
        answer = self._call("get_item", Key={"id": {"S": name}}, ConsistentRead=True)
        if answer is None:
            return None
        item = answer.get("Item", {})
        sealed, version = item.get("sealed", {}).get("B", b""), item.get("version", {}).get("S")
        return _Item(bytes(sealed), version, float(item.get("lease_until", {}).get("N", 0)))

    def lease(self, name: str, holder: str, seen: str | None, now: float) -> bool:
        """Whether the lease is now `holder`'s: it was free, and the value is still the one that was seen."""
        # Whoever can write the table may write other types, which compare with nothing: those are as good as absent.
        free = "(NOT attribute_type(lease_until, :number) OR lease_until < :now OR lease_until > :absurd)"
        same = "version = :seen" if seen else "NOT attribute_type(version, :string)"
        values = {
            ":holder": {"S": holder},
            ":until": {"N": f"{now + LEASE_SECONDS:.3f}"},
            ":now": {"N": f"{now:.3f}"},
            ":absurd": {"N": f"{now + 2 * LEASE_SECONDS:.3f}"},
            ":number": {"S": "N"},
            # An item that never gets a value goes, too.
            ":expires": {"N": str(int(now) + 3600)},
        }
        values |= {":seen": {"S": seen}} if seen else {":string": {"S": "S"}}
        return self._update(
            name,
            "SET holder = :holder, lease_until = :until, expires_at = if_not_exists(expires_at, :expires)",
            # Ours already: the answer to this very write was lost, and botocore has sent it again.
            f"({free} OR holder = :holder) AND {same}",
            values,
        )

    def write(self, name: str, holder: str, sealed: bytes, entry: Entry) -> None:
        """Store a value and give the lease back, unless the lease was lost."""
        self._update(
            name,
            "SET sealed = :sealed, version = :version, expires_at = :expires REMOVE holder, lease_until",
            "holder = :holder",
            {
                ":sealed": {"B": sealed},
                ":version": {"S": entry.version},
                ":expires": {"N": str(int(max(entry.usable_until, entry.stale_until)) + 60)},
                ":holder": {"S": holder},
            },
        )

    def release(self, name: str, holder: str) -> None:
        """Give the lease back without a value, so that the next one need not wait for it to lapse."""
        self._update(name, "REMOVE holder, lease_until", "holder = :holder", {":holder": {"S": holder}})

    def admit(self, name: str, limit: int, expires_at: float) -> bool | None:
        """Count under a name. Return whether that makes no more than `limit` by then; None when the table fails.

        What is not a count is replaced by one.
        """
        answer = self._call(
            "update_item",
            Key={"id": {"S": name}},
            UpdateExpression="SET expires_at = :expires ADD admitted :one",
            ConditionExpression="NOT attribute_type(admitted, :number) OR admitted < :limit",
            ExpressionAttributeValues={
                ":expires": {"N": str(int(expires_at) + 60)},
                ":one": {"N": "1"},
                ":limit": {"N": str(limit)},
                ":number": {"S": "N"},
            },
        )
        return None if answer is None else "refused" not in answer

    def refund(self, name: str) -> None:
        """Take one from what `admit` counted under a name."""
        self._update(name, "ADD admitted :less", "admitted > :none", {":less": {"N": "-1"}, ":none": {"N": "0"}})

    def _update(self, name: str, expression: str, condition: str, values: dict[str, Any]) -> bool:
        answer = self._call(
            "update_item",
            Key={"id": {"S": name}},
            UpdateExpression=expression,
            ConditionExpression=condition,
            ExpressionAttributeValues=values,
        )
        return answer is not None and not answer.get("refused", False)

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any] | None:
        # In a pause; not if the clock has gone back since.
        if 0 < self._resume_at - self._now() <= TABLE_PAUSE_SECONDS:
            return None
        try:
            answer: dict[str, Any] = getattr(self._dynamodb, operation)(TableName=self._table, **arguments)
        except OutOfTimeError as error:
            telemetry.note(cache_table=str(error))
            return None
        except Exception as error:  # noqa: BLE001 - whatever it is: the enrollment goes on without the table
            code = error_code(error)
            if code == "ConditionalCheckFailedException":
                return {"refused": True}
            self._resume_at = self._now() + TABLE_PAUSE_SECONDS
            telemetry.note(cache_table=f"{operation} failed ({code})")
            telemetry.count("CacheTableFailed")
            return None
        return answer


@functools.cache
def cache_table() -> CacheTable:
    """The execution environment's shared tier. Built on first use; a failure is not cached."""
    return CacheTable(aws.client("dynamodb", hasty=True), settings().cache_table)
