"""One local stack for all tests; a client, its log lines and Nexi's for each."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from backends import Backend, backend
from failures import FAILURES, Outcome
from leaks import recorded
from lines import Lines, LinesHandler
from peers import Peer
from tokens import Forger

from sandbox.local import TEMPLATE, LocalStack
from sandbox.template import Template


@pytest.fixture(scope="session")
def function_lines() -> Lines:
    """What the stack's own functions have logged."""
    return Lines()


@pytest.fixture(scope="session")
def stack(function_lines: Lines) -> Iterator[LocalStack]:
    """Nexi, AWS and the API, on free ports, with all that can be switched on, for operators who never tire."""
    parameters = {"SampleAppApi": "true", "EnrollmentsPerMinute": "1000000"}
    with LocalStack(parameters=parameters, log=lambda _source, line: function_lines.add(line)) as running:
        yield running


@pytest.fixture
def api(stack: LocalStack, function_lines: Lines) -> Backend:
    """A client of the stack's own API."""
    return Backend(stack, stack.gateway.url, function_lines)


@pytest.fixture
def start_backend(stack: LocalStack) -> Iterator[Callable[..., Backend]]:
    """Starts a cold API of its own: `start_backend({"NEXI_BASE_URL": …}, timeout=5)`."""
    with ExitStack() as running:

        def start(environment: dict[str, str] | None = None, **changes: Any) -> Backend:
            return running.enter_context(backend(stack, environment, **changes))

        yield start


@pytest.fixture(scope="session")
def forger(stack: LocalStack) -> Forger:
    """Makes tokens that the stack's authorizer takes, or just does not."""
    return Forger(stack)


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    with ExitStack() as running:
        yield Peer(tmp_path, running)


@pytest.fixture
def template_of() -> Callable[..., Template]:
    """template.yaml with these parameters: `template_of(Stage="production")`."""
    return lambda **parameters: Template(TEMPLATE, parameters)


@pytest.fixture
def nexi_lines() -> Iterator[Lines]:
    """What the sandbox's Nexi logs while the test runs."""
    lines = Lines()
    handler = LinesHandler(lines)
    logger = logging.getLogger("nexi")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture(scope="session")
def provoke(stack: LocalStack, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Outcome]]:
    """The outcome of a failure, by its name. Each is provoked once, on cold functions, several at a time."""
    asked = "\n".join(item.nodeid for item in request.session.items)
    everything = "test_secrecy" in asked
    with recorded(stack.nexi) as wire, ThreadPoolExecutor(3) as pool:
        outcomes = {
            failure.name: pool.submit(failure.provoke, stack, wire)
            for failure in FAILURES
            if everything or failure.name in asked
        }
        yield lambda name: outcomes[name].result(60)
