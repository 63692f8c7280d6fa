"""Everyone at the same moment: two hundred operators, and one hundred and fifty free pairs."""

import threading
from typing import Any

from softpos.errors import NoTerminalFreeError
from softpos.pairs import from_csv
from softpos.terminals import Assignment, TerminalRegistry

OPERATORS = 200
PAIRS = 150


class OneAtATime:
    """A client whose calls do not overlap, since moto's would race where DynamoDB's are atomic. Their order is free."""

    def __init__(self, dynamodb: Any) -> None:
        self._dynamodb = dynamodb
        self._lock = threading.Lock()

    def __getattr__(self, operation: str) -> Any:
        def call(**arguments: Any) -> Any:
            with self._lock:
                return getattr(self._dynamodb, operation)(**arguments)

        return call


def test_two_hundred_operators_and_a_hundred_and_fifty_pairs_end_with_fifty_clean_refusals(dynamodb: Any) -> None:
    client: Any = OneAtATime(dynamodb)
    TerminalRegistry(client, "terminals").add(
        from_csv("point_of_sale,softpos_tid\n" + "".join(f"{at % 3},{30000000 + at}\n" for at in range(PAIRS)))
    )
    gate = threading.Barrier(OPERATORS)
    given: list[Assignment] = []
    refused: list[str] = []
    failed: list[Exception] = []

    def use_the_app(operator: str) -> None:
        # An execution environment each.
        registry = TerminalRegistry(client, "terminals")
        gate.wait()
        try:
            given.append(registry.assign(operator))
        except NoTerminalFreeError:
            refused.append(operator)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test tells of it
            failed.append(error)

    operators = [f"operator-{number}@example.com" for number in range(OPERATORS)]
    phones = [threading.Thread(target=use_the_app, args=(operator,)) for operator in operators]
    for phone in phones:
        phone.start()
    for phone in phones:
        phone.join()

    assert failed == []
    assert len({each.operator for each in given}) == len({each.name for each in given}) == len(given) == PAIRS
    assert len(refused) == OPERATORS - PAIRS
    registry = TerminalRegistry(client, "terminals")
    assert {each.operator: registry.held_by(each.operator) for each in given} == {each.operator: each for each in given}
    assert registry.page(state="free").pairs == []
    assert set(registry.page(state="held", limit=PAIRS).pairs) == set(given)
