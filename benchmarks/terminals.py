"""What one operation on the terminals costs in DynamoDB, in pools of any size.

Against the tests' DynamoDB in memory, which they hold against moto; a meter in between counts requests and items, and
what DynamoDB would charge by its documented rules: a read unit for each 4 KB, a write unit for each 1 KB, twice in a
transaction. The pool's items are made when they are read: a million pairs fit in any machine.
"""

import json
import math
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.measure import Row, exactly
from softpos.terminals import TerminalRegistry
from tests.unit.registry_support import TABLE, InMemory

SIZES = {"smallest": [100, 1000], "usual": [100, 10_000, 1_000_000]}
POINT_OF_SALE = "00012345"
OPERATIONS = 3


class _Pool(dict[tuple[str, str], Any]):
    """Items by collection and name. One that nobody has written is made of its name."""

    def get(self, at: Any, default: Any = None) -> Any:
        try:
            return self[at]
        except KeyError:
            return default

    def __getitem__(self, at: tuple[str, str]) -> Any:
        item = super().__getitem__(at)
        if item is not None:
            return item
        tid = at[1].rpartition("#")[2]
        made = {"pk": at[0], "sk": at[1], "point_of_sale": POINT_OF_SALE, "softpos_tid": tid, "imported": "1"}
        return {name: {"S": value} for name, value in made.items()}


class _Meter:
    """Passes calls on, and adds up what they are charged with."""

    def __init__(self, dynamodb: InMemory) -> None:
        self._dynamodb = dynamodb
        self.reset()

    def reset(self) -> None:
        self.requests = 0
        self.items = 0
        self.read = self.written = 0.0

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**asked: Any) -> Any:
            answer = getattr(self._dynamodb, operation)(**asked)
            self.requests += 1
            if operation == "query":
                self.items += len(answer["Items"])
                self.read += _units(sum(map(_size, answer["Items"])), 4096)
            elif operation == "get_item":
                self.items += 1
                self.read += _units(_size(answer.get("Item", {})), 4096)
            elif operation == "transact_write_items":
                actions = [next(iter(each.values())) for each in asked["TransactItems"]]
                self.items += len(actions)
                self.written += sum(2 * _units(_size(each.get("Item", {})), 1024) for each in actions)
            else:
                raise ValueError(f"nobody has said what {operation} costs")
            return answer

        return call


def _size(item: dict[str, Any]) -> int:
    return len(json.dumps(item))


def _units(size: int, unit: int) -> float:
    return max(1, math.ceil(size / unit))


def run(size: str) -> Row:
    """The row of the terminals."""
    costs: dict[int, dict[str, dict[str, float]]] = {pairs: _costs(pairs) for pairs in SIZES[size]}
    smallest, largest = min(costs), max(costs)
    table: list[list[str]] = []
    growing = 0
    for name in costs[smallest]:
        for pairs, operations in costs.items():
            cost = operations[name]
            table.append(
                [name, f"{pairs:,}", *(f"{cost[each]:g}" for each in ("requests", "items", "read", "written"))]
            )
        same = costs[largest][name] == costs[smallest][name]
        growing += not same
    return Row(
        "terminals",
        "Terminals: cost of one operation by the size of the pool",
        f"Medians of {OPERATIONS}, half of the pool held, one point of sale. Requests, items read or written, and "
        "capacity by DynamoDB's documented rules, from the very requests that the registry makes. Not moto's, whose "
        "consumed capacity is a constant for each operation.",
        ["operation", "pairs", "requests", "items", "read units", "write units"],
        table,
        [exactly(f"operations that cost more among {largest:,} pairs than among {smallest}", growing, 0, "operations")],
        raw={"costs": {str(pairs): operations for pairs, operations in costs.items()}},
    )


def _costs(pairs: int) -> dict[str, dict[str, float]]:
    """By operation, what it costs in a pool of so many, of which half are held."""
    pool = _Pool()
    for number in range(pairs):
        tid, held = f"{10_000_000 + number}", number % 2
        pool["free" if not held else "held", f"{POINT_OF_SALE}#{tid}"] = None
        pool["tids", tid] = None
    tids = [f"{10_000_000 + number}" for number in range(pairs)]
    dynamodb = InMemory()
    dynamodb.items = pool
    meter: Any = _Meter(dynamodb)
    registry = TerminalRegistry(meter, TABLE, sleep=lambda _: None)
    found: dict[str, list[dict[str, float]]] = {}

    def measure(name: str, call: Callable[[], object]) -> None:
        meter.reset()
        call()
        cost = {"requests": meter.requests, "items": meter.items, "read": meter.read, "written": meter.written}
        found.setdefault(name, []).append(cost)

    for number in range(OPERATIONS):
        email, tid = f"operator-{number}@example.com", tids[2 * (pairs // 4 + number)]
        other = f"operator-{number}-b@example.com"
        measure("assign a TID", lambda email=email, tid=tid: registry.assign(email, tid))
        measure("read what an operator holds", lambda email=email: registry.held_by(email))
        measure("show a TID", lambda tid=tid: registry.show(tid))
        measure("release a TID", lambda tid=tid: registry.release(tid))
        measure("assign any free pair", lambda other=other: registry.assign(other))
        measure("list the first 20", lambda: registry.page(limit=20))
    return {
        name: {each: statistics.median(cost[each] for cost in costs) for each in costs[0]}
        for name, costs in found.items()
    }
