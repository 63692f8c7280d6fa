"""What the unit tests share. Generating an RSA key takes a while: each is made once, and no test changes one."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import hypothesis
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from moto import mock_aws
from registry_support import create_table
from unit_support import Lines, RsaPair

from sandbox.authority import Authority, Issued
from sandbox.template import STACK

# As template.yaml sets it; Powertools reads it when it is imported.
os.environ["POWERTOOLS_SERVICE_NAME"] = STACK

from softpos import telemetry
from softpos.credentials import Certificate, parse_certificate

# The same examples in every run, however slow the machine, and nothing left behind in the working copy.
hypothesis.settings.register_profile("unit", derandomize=True, deadline=None, database=None, max_examples=200)
hypothesis.settings.load_profile("unit")


class _LibraryRecords(logging.Handler):
    """Collects what libraries say that the layer silences."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.names: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] in {name.partition(".")[0] for name in telemetry.LIBRARIES}:
            self.names.append(record.name)


@pytest.fixture(autouse=True)
def no_library_speaks() -> Iterator[None]:
    """A handler on the root logger at DEBUG, as Lambda's runtime has one: no library's record reaches it."""
    root, handler = logging.getLogger(), _LibraryRecords()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield
    root.setLevel(before)
    root.removeHandler(handler)
    assert handler.names == []


@pytest.fixture(scope="session")
def nexi_key() -> RsaPair:
    """The key pair whose public half Nexi's JWKS shows."""
    return RsaPair(rsa.generate_private_key(65537, 2048))


@pytest.fixture(scope="session")
def other_key() -> RsaPair:
    """A key pair that belongs to nothing else here."""
    return RsaPair(rsa.generate_private_key(65537, 2048))


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="session")
def developer(authority: Authority) -> Issued:
    """The developer certificate and its key."""
    return authority.developer("UNIT TESTS")


@pytest.fixture(scope="session")
def certificate_secret(developer: Issued, authority: Authority) -> str:
    """The certificate secret as it ought to be stored."""
    return json.dumps(
        {"certificate": developer.certificate_pem + authority.certificate_pem, "private_key": developer.key_pem}
    )


@pytest.fixture(scope="session")
def certificate(certificate_secret: str) -> Certificate:
    return parse_certificate(certificate_secret)


@pytest.fixture
def code_on_path() -> dict[str, str]:
    """The environment of a fresh interpreter that finds the code as Lambda would, and nothing of this machine's."""
    root = Path(__file__).parents[2]
    return {"PYTHONPATH": str(root / "layers" / "softpos"), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def lines() -> Iterator[Lines]:
    """softpos's log, out of the very handler that writes it to stdout."""
    (handler,) = telemetry.logger.handlers
    written = Lines()
    before = handler.setStream(written.stream)
    yield written
    handler.setStream(before)


@pytest.fixture
def dynamodb() -> Iterator[Any]:
    """DynamoDB, with an empty table called `cache` and one called `terminals`."""
    with mock_aws():
        client = boto3.client(
            "dynamodb", region_name="eu-south-1", aws_access_key_id="test", aws_secret_access_key="test"
        )
        client.create_table(
            TableName="cache",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        )
        create_table(client)
        yield client
