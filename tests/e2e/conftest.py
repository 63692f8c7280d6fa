"""The built artefacts, for this machine and for Lambda, each made once; the local stack; and the functions on both."""

import platform
import sys
from collections.abc import Iterator

import pytest
from builds import Build, build, runtime, unpacked
from deployed import Deployed, Registry, Secrets

from sandbox.local import LocalStack
from tests.integration.leaks import recorded


@pytest.fixture(scope="session")
def for_lambda(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """What `make build` makes."""
    return build(tmp_path_factory.mktemp("for-lambda"))


@pytest.fixture(scope="session")
def for_this_machine(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The same, for this machine's architecture and Python."""
    if sys.platform != "linux":
        pytest.skip("AWS's runtime interface emulator is a program for Linux")
    architecture = "aarch64" if platform.machine() in ("aarch64", "arm64") else "x86_64"
    return build(
        tmp_path_factory.mktemp("for-this-machine"),
        LAMBDA_PLATFORM=f"{architecture}-manylinux_2_28",
        LAMBDA_PYTHON=f"{sys.version_info.major}.{sys.version_info.minor}",
    )


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalStack]:
    """Nexi, AWS and the API, on free ports, with all that can be switched on, for operators who never tire."""
    with LocalStack(parameters={"SampleAppApi": "true", "EnrollmentsPerMinute": "1000000"}) as running:
        yield running


@pytest.fixture(scope="session")
def deployed(
    stack: LocalStack, for_this_machine: Build, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("lambda")
    opt = unpacked(for_this_machine.layers.values(), folder / "opt")
    running = Deployed(stack, for_this_machine, [opt / "python", runtime(folder / "runtime")])
    yield running
    running.stop()


@pytest.fixture(scope="session")
def original_registry(stack: LocalStack) -> Registry:
    return Registry(stack)


@pytest.fixture
def registry(original_registry: Registry) -> Registry:
    """The pool of four pairs of which OPERATOR holds the first."""
    original_registry.put_back()
    return original_registry


@pytest.fixture
def empty_cache(stack: LocalStack) -> None:
    """No token, no keys, no count, no idempotency key."""
    dynamodb, table = stack.aws.client("dynamodb"), stack.template.existing()["CacheTable"][1]
    for item in dynamodb.scan(TableName=table)["Items"]:
        dynamodb.delete_item(TableName=table, Key={"id": item["id"]})


@pytest.fixture(scope="session")
def all_secrets(stack: LocalStack) -> Secrets:
    return Secrets(stack)


@pytest.fixture
def secrets(stack: LocalStack, all_secrets: Secrets) -> Iterator[Secrets]:
    """With what goes over the wire while the test runs."""
    with recorded(stack.nexi) as all_secrets.wire:
        yield all_secrets
