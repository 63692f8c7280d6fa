"""AWS clients: one botocore session, built on first use. Calls keep to the enrollment's deadline.

The environment's proxies, CA bundles and key log are ignored. boto3 is imported late: it costs more to import than all
our other imports together.
"""

import functools
import re
import time
from typing import TYPE_CHECKING, Any, Literal, overload

from softpos.deadline import within_deadline
from softpos.errors import BackendUnavailableError, SoftposError
from softpos.settings import forget_key_log

if TYPE_CHECKING:
    from mypy_boto3_cognito_idp import CognitoIdentityProviderClient
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_kms import KMSClient
    from mypy_boto3_secretsmanager import SecretsManagerClient

# These services answer in milliseconds within their region. Inside an enrollment, its deadline ends a call as well.
_ATTEMPTS = 2
_CONNECT_SECONDS = 0.5
_READ_SECONDS = 1.0

# For what an enrollment can do without, the cache, and for KMS, which has a call more before its first.
_HASTY_CONNECT_SECONDS = 0.3
_HASTY_READ_SECONDS = 0.5


@overload
def client(service: Literal["secretsmanager"]) -> "SecretsManagerClient": ...
@overload
def client(service: Literal["kms"], *, hasty: bool = False) -> "KMSClient": ...
@overload
def client(service: Literal["cognito-idp"]) -> "CognitoIdentityProviderClient": ...
@overload
def client(service: Literal["dynamodb"], *, hasty: bool = False) -> "DynamoDBClient": ...
def client(service: str, *, hasty: bool = False) -> Any:
    """Return the execution environment's client for `service`. `AWS_ENDPOINT_URL` is honoured.

    A `hasty` client gives up sooner. Every call raises OutOfTimeError when the applied deadline ends it.
    """
    return _client(service, hasty)


def drop_connections() -> None:
    """Close what the clients have open. Their next calls connect anew."""
    for each in _clients:
        each.close()


_clients: list[Any] = []


@functools.cache
def _client(service: str, hasty: bool) -> Any:
    from botocore.config import Config

    config = Config(
        connect_timeout=_HASTY_CONNECT_SECONDS if hasty else _CONNECT_SECONDS,
        read_timeout=_HASTY_READ_SECONDS if hasty else _READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        proxies={},
        # botocore would put one together for each call, at a sixth of what the call costs.
        user_agent="softpos",
        # Nor does it look through each call's arguments, which are ours, or at whose account an endpoint could be.
        parameter_validation=False,
        account_id_endpoint_mode="disabled",
    )
    # verify=True is botocore's own bundle; None would ask AWS_CA_BUNDLE and REQUESTS_CA_BUNDLE.
    made = _session().client(service, config=config, verify=True)
    _clients.append(made)
    return _WithinDeadline(service, made)


class _WithinDeadline:
    """A client whose calls end at the applied deadline. botocore's timeouts are fixed when a client is made.

    A call that fails in signing or in credentials is made once more: after a thaw, the first one may be signed with the
    time or the credentials of before, and botocore does not retry it.
    """

    def __init__(self, service: str, client: Any) -> None:
        self._service = service
        self._client = client

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._client, name)
        if not callable(member):
            return member
        what = f"{self._service} {name}"

        def call(**arguments: Any) -> Any:
            try:
                return within_deadline(what, lambda: member(**arguments))
            except Exception as error:
                if error_code(error) not in _SIGNING:
                    raise
            time.sleep(_SIGNING_PAUSE_SECONDS)
            return within_deadline(what, lambda: member(**arguments))

        return call


@functools.cache
def _session() -> Any:
    import boto3

    forget_key_log()

    return boto3.session.Session()


def error_code(error: Exception) -> str:
    """AWS's code for a failed call, such as `ResourceNotFoundException`; the exception's name when AWS gave none."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code") or type(error).__name__)


def failure(what: str, error: Exception) -> SoftposError:
    """What a failed call is, where its code says nothing of ours: BackendUnavailableError when the service fails for
    the moment, SoftposError for anything else.
    """
    from botocore import exceptions

    code = error_code(error)
    message, remedy = f"{what} ({code})", "see the cause and AWS's service health"
    passing = _PASSING.search(code) or code in _SIGNING
    if passing or isinstance(error, exceptions.ConnectionError | exceptions.HTTPClientError):
        return BackendUnavailableError(message, remedy)
    return SoftposError(message, remedy)


_SIGNING = frozenset(
    {
        "CredentialRetrievalError",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidSignatureException",
        "MetadataRetrievalError",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_SIGNING_PAUSE_SECONDS = 0.2

_PASSING = re.compile("^Internal|Unavailable|Throttling|TooManyRequests")
