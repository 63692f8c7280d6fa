"""What the tests have of a stack: its built functions, its terminals table, and what nobody may print."""

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from builds import Build
from emulator import Emulator

from sandbox.local import LocalStack
from tests.integration.leaks import leaks, of_key


class Deployed:
    """The built functions, on the local stack's AWS and Nexi."""

    def __init__(self, stack: LocalStack, build: Build, path: list[Path]) -> None:
        self.stack = stack
        self.path = path
        self._build = build
        self._warm: dict[str, Emulator] = {}
        self._running = ExitStack()

    def cold(
        self, name: str, environment: dict[str, str] | None = None, *, folder: Path | None = None, timeout: int = 0
    ) -> Emulator:
        """A new execution environment of this function; of another folder's code, where one is given."""
        function = self.stack.template.functions()[name]
        own = dataclasses.replace(
            function, folder=folder or self._build.functions[name], timeout=timeout or function.timeout
        )
        started = Emulator(own, self.path, {**self.stack.aws.environment, **(environment or {})})
        return self._running.enter_context(started)

    def warm(self, name: str, environment: dict[str, str] | None = None) -> Emulator:
        """The one that all tests share."""
        key = f"{name} {environment}"
        if key not in self._warm:
            self._warm[key] = self.cold(name, environment)
        return self._warm[key]

    def stop(self) -> None:
        self._running.close()


class Registry:
    """The terminals table, as the stack came up with it."""

    def __init__(self, stack: LocalStack) -> None:
        self._dynamodb = stack.aws.client("dynamodb")
        self._table = stack.outputs["TerminalsTableName"]
        self._items = self._all()

    def put_back(self) -> None:
        current = self._all()
        for item in current:
            if item not in self._items:
                key = {name: item[name] for name in ("pk", "sk")}
                self._dynamodb.delete_item(TableName=self._table, Key=key)
        for item in self._items:
            if item not in current:
                self._dynamodb.put_item(TableName=self._table, Item=item)

    def _all(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self._dynamodb.scan(TableName=self._table)["Items"]
        return items


class Secrets:
    """What nobody may print: the stack's keys and secrets, and what goes over the wire to Nexi."""

    def __init__(self, stack: LocalStack) -> None:
        self._own = [stack.app.client_secret, *of_key(stack.developer.key_pem)]
        self.wire: list[str] = []

    def leaked(self, text: str) -> list[str]:
        return leaks(text, [*self._own, *self.wire])
