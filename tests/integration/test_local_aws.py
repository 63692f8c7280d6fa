"""The sandbox's AWS keeps DynamoDB's promises where the code will rely on them."""

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from backends import client, table

from sandbox.local import LocalStack

CLIENTS = 16
ROUNDS = 50


@pytest.fixture
def _threads_interrupt_each_other_often() -> Iterator[None]:
    """With Python's own 5 ms, moto's races hide: without the sandbox's lock the test below would pass."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_threads_interrupt_each_other_often")
def test_of_sixteen_clients_that_put_one_key_if_it_is_not_there_exactly_one_wins_each_round(stack: LocalStack) -> None:
    name = table(stack, "CacheTable")
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = list(pool.map(lambda _: stack.aws.client("dynamodb"), range(CLIENTS)))
        start = threading.Barrier(CLIENTS, timeout=20)

        def put(dynamodb: Any, key: str) -> bool:
            start.wait()
            try:
                dynamodb.put_item(
                    TableName=name, Item={"id": {"S": key}}, ConditionExpression="attribute_not_exists(id)"
                )
            except dynamodb.exceptions.ConditionalCheckFailedException:
                return False
            return True

        winners = [sum(pool.map(put, clients, [f"round-{turn}"] * CLIENTS)) for turn in range(ROUNDS)]

    assert winners == [1] * ROUNDS


def test_a_table_has_the_time_to_live_that_the_template_gives_it(stack: LocalStack) -> None:
    described = client(stack, "dynamodb").describe_time_to_live(TableName="softpos-CacheTable")
    assert described["TimeToLiveDescription"] == {"TimeToLiveStatus": "ENABLED", "AttributeName": "expires_at"}
