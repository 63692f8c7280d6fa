"""Terminals tables for the tests of the registry, and DynamoDBs that something happens to."""

import copy
import json
import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError
from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.exceptions import JsonRESTError
from moto.dynamodb.models.utilities import dynamo_json_dump
from moto.dynamodb.responses import DynamoHandler

from softpos.pairs import PairList, TerminalPair

TABLE = "terminals"
REGION = "eu-south-1"

Item = dict[str, Any]


def create_table(dynamodb: Any) -> None:
    """The terminals table, with the keys that template.yaml gives it."""
    dynamodb.create_table(
        TableName=TABLE,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
    )


def listed(*pairs: TerminalPair) -> PairList:
    """An import of these pairs, with nothing wrong with the list itself."""
    return PairList({f"pairs[{at}]": pair for at, pair in enumerate(pairs)})


def table(dynamodb: Any) -> dict[str, dict[str, Item]]:
    """All that the table holds: by collection and name, the other attributes."""
    collections: dict[str, dict[str, Item]] = {name: {} for name in ("operators", "free", "held", "tids", "imports")}
    more: dict[str, Any] = {}
    while True:
        answer = dynamodb.scan(TableName=TABLE, **more)
        for item in answer["Items"]:
            collection, name = item.pop("pk")["S"], item.pop("sk")["S"]
            collections[collection][name] = {each: next(iter(value.values())) for each, value in item.items()}
        if "LastEvaluatedKey" not in answer:
            return collections
        more = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}


def check_invariants(dynamodb: Any) -> None:
    """What is true of the table at every moment, also in the middle of an import."""
    at = table(dynamodb)
    free, held = at["free"], at["held"]
    assert not set(free) & set(held), "a pair is free and held"
    pairs = free | held
    for name, pair in pairs.items():
        tids = [pair[tid] for tid in ("softpos_tid", "mpos_tid") if tid in pair]
        assert name == f"{pair['point_of_sale']}#{tids[0]}", "a pair has its own name"
        for tid in tids:
            plain = {each: value for each, value in pair.items() if each != "operator"}
            assert at["tids"].get(tid) == plain, "each of a pair's TIDs says the pair that it is in"
    in_pairs = [pair[tid] for pair in pairs.values() for tid in ("softpos_tid", "mpos_tid") if tid in pair]
    assert sorted(in_pairs) == sorted(at["tids"]), "each TID is in one pair only, and none without a pair is left"
    assert all("operator" not in pair for pair in free.values()), "nobody holds what is free"
    holders = {pair["operator"].lower(): {**pair, "pair": name} for name, pair in held.items()}
    assert len(holders) == len(held), "an operator holds one pair"
    assert at["operators"] == holders, "operators and what is held say the same"
    assert not {pair["imported"] for pair in held.values()} & set(at["imports"]), "nobody holds what is not visible"


class Watched:
    """A DynamoDB that passes every call on, and tells of it before and after. Who is told may raise in its place."""

    def __init__(
        self,
        dynamodb: Any,
        before: Callable[[str, dict[str, Any]], None] | None = None,
        after: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> None:
        self._dynamodb = dynamodb
        self._before = before
        self._after = after
        self.calls: list[str] = []

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            self.calls.append(operation)
            if self._before:
                self._before(operation, arguments)
            answer = getattr(self._dynamodb, operation)(**arguments)
            if self._after:
                self._after(operation, arguments)
            return answer

        return call


class Instead:
    """A DynamoDB that does one operation in another way, which is given the real one and what it was asked for."""

    def __init__(
        self, dynamodb: Any, operation: str, does: Callable[[Callable[..., Any], dict[str, Any]], Any]
    ) -> None:
        self._dynamodb = dynamodb
        self._operation = operation
        self._does = does

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        real: Callable[..., Any] = getattr(self._dynamodb, operation)
        return real if operation != self._operation else lambda **arguments: self._does(real, arguments)


class Unwired:
    """moto's DynamoDB, without the wire, which takes most of the time: for tests that make many thousand calls."""

    def __init__(self) -> None:
        self._handler = DynamoHandler()
        self._handler.region, self._handler.current_account = REGION, DEFAULT_ACCOUNT_ID

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            self._handler.body = arguments
            try:
                result = getattr(self._handler, operation)().result
            except JsonRESTError as error:
                raise _client_error(operation, json.loads(error.description)) from error
            if operation == "create_table":
                _copied_quickly(self._handler.dynamodb_backend.get_table(arguments["TableName"]))
            return json.loads(dynamo_json_dump(result))

        return call


def _copied_quickly(moto_table: Any) -> None:
    """moto copies the table for each action of a transaction, to go back to. It replaces items, and changes none."""

    def copied(_: Any) -> Any:
        other = copy.copy(moto_table)
        other.items = defaultdict(dict, {name: dict(items) for name, items in moto_table.items.items()})
        _copied_quickly(other)
        return other

    moto_table.__deepcopy__ = copied


class InMemory:
    """As much of DynamoDB as the registry uses, for tests that make a million calls. `Both` holds it against moto."""

    def __init__(self, items: dict[tuple[str, str], Item] | None = None) -> None:
        self.items = dict(items or {})
        """By collection and name."""

    def get_item(self, **asked: Any) -> dict[str, Any]:
        item = self.items.get(_at(asked["Key"]))
        return {"Item": dict(item)} if item else {}

    def batch_get_item(self, **asked: Any) -> dict[str, Any]:
        ((table_name, wanted),) = asked["RequestItems"].items()
        found = [self.get_item(Key=key).get("Item") for key in wanted["Keys"]]
        return {"Responses": {table_name: [item for item in found if item]}, "UnprocessedKeys": {}}

    def query(self, **asked: Any) -> dict[str, Any]:
        assert asked["KeyConditionExpression"] == "pk = :pk AND sk BETWEEN :low AND :high"
        collection, low, high = (asked["ExpressionAttributeValues"][name]["S"] for name in (":pk", ":low", ":high"))
        after = asked.get("ExclusiveStartKey", {"sk": {"S": ""}})["sk"]["S"]
        found: list[tuple[str, str]] = []
        for at in sorted(at for at in self.items if at[0] == collection and at[1] > after):
            if len(found) == asked.get("Limit"):
                # Whether what comes next is in the range has not been looked at.
                return {"Items": [dict(self.items[each]) for each in found], "LastEvaluatedKey": _key_of(found[-1])}
            if low <= at[1] <= high:
                found.append(at)
        return {"Items": [dict(self.items[each]) for each in found]}

    def scan(self, **_: Any) -> dict[str, Any]:
        return {"Items": [dict(self.items[at]) for at in sorted(self.items)]}

    def put_item(self, **asked: Any) -> dict[str, Any]:
        self.items[_at(asked["Item"])] = asked["Item"]
        return {}

    def delete_item(self, **asked: Any) -> dict[str, Any]:
        self._check("DeleteItem", asked)
        self.items.pop(_at(asked["Key"]), None)
        return {}

    def update_item(self, **asked: Any) -> dict[str, Any]:
        self._check("UpdateItem", asked)
        assert asked["UpdateExpression"] == "SET void_at = if_not_exists(void_at, :now)"
        now = asked["ExpressionAttributeValues"][":now"]
        self.items[_at(asked["Key"])] = {"void_at": now, **asked["Key"], **self.items.get(_at(asked["Key"]), {})}
        return {}

    def transact_write_items(self, **asked: Any) -> dict[str, Any]:
        actions = [next(iter(action.items())) for action in asked["TransactItems"]]
        if (
            len({_at(action.get("Key") or action["Item"]) for _, action in actions}) < len(actions)
            or len(actions) > 100
        ):
            raise failed("TransactWriteItems", "ValidationException")
        met = [self._met(action) for _, action in actions]
        if not all(met):
            raise cancelled(*("None" if each else "ConditionalCheckFailed" for each in met))
        for kind, action in actions:
            {"Put": self.put_item, "Delete": self._delete}[kind](**action)
        return {}

    def _delete(self, **action: Any) -> None:
        self.items.pop(_at(action["Key"]), None)

    def _check(self, operation: str, asked: dict[str, Any]) -> None:
        if not self._met(asked):
            raise failed(operation, "ConditionalCheckFailedException")

    def _met(self, asked: dict[str, Any]) -> bool:
        item = self.items.get(_at(asked.get("Key") or asked["Item"]), {})
        names, values = asked.get("ExpressionAttributeNames", {}), asked.get("ExpressionAttributeValues", {})
        return all(
            _holds(term, item, names, values) for term in asked.get("ConditionExpression", "").split(" AND ") if term
        )


def _holds(term: str, item: Item, names: dict[str, str], values: Item) -> bool:
    if exists := re.fullmatch(r"attribute_exists\((\w+)\)", term):
        return exists[1] in item
    if absent := re.fullmatch(r"attribute_not_exists\((\w+)\)", term):
        return absent[1] not in item
    name, value = term.split(" = ")
    return item.get(names[name]) == values[value]


def _at(key: Item) -> tuple[str, str]:
    return key["pk"]["S"], key["sk"]["S"]


def _key_of(at: tuple[str, str]) -> Item:
    return {"pk": {"S": at[0]}, "sk": {"S": at[1]}}


class Both:
    """moto and `InMemory`, asked for the same. Both must give the same answer, or the same refusal."""

    def __init__(self) -> None:
        self._moto, self._in_memory = Unwired(), InMemory()

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            answer, said = _answer(getattr(self._moto, operation), arguments)
            if operation not in ("create_table", "delete_table"):
                assert _answer(getattr(self._in_memory, operation), arguments)[1] == said, f"{operation} {arguments}"
            if isinstance(answer, ClientError):
                raise answer
            return answer

        return call


def _answer(call: Callable[..., Any], arguments: dict[str, Any]) -> tuple[Any, Any]:
    """An answer or an error, and what of it matters."""
    try:
        answer = call(**arguments)
    except ClientError as error:
        reasons = [reason["Code"] for reason in error.response.get("CancellationReasons", [])]
        return error, (error.response["Error"]["Code"], reasons)
    return answer, {name: answer.get(name) for name in ("Item", "Items", "LastEvaluatedKey", "Responses")}


def _client_error(operation: str, answer: dict[str, Any]) -> ClientError:
    code = answer.pop("__type").rpartition("#")[2]
    message = answer.pop("Message", "") or answer.pop("message", "")
    return ClientError({"Error": {"Code": code, "Message": message}, **answer}, operation)


def cancelled(*reasons: str) -> ClientError:
    """What DynamoDB says of a transaction that it has cancelled, one reason for each action."""
    return ClientError(
        {
            "Error": {"Code": "TransactionCanceledException", "Message": "Transaction cancelled"},
            "CancellationReasons": [{"Code": reason} for reason in reasons],
        },
        "TransactWriteItems",
    )


def failed(operation: str, code: str = "InternalServerError") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "arn:aws:dynamodb:…"}}, operation)


def nth(n: int, happens: Callable[[], None], operation: str = "") -> Callable[[str, dict[str, Any]], None]:
    """For `Watched`: what happens at the n-th call, or the n-th of an operation. The first is 1."""
    left = n

    def count(called: str, _: dict[str, Any]) -> None:
        nonlocal left
        if operation in ("", called):
            left -= 1
            if left == 0:
                happens()

    return count
