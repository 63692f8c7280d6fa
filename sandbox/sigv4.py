"""AWS's Signature Version 4 on requests to the API: made as a back office makes it, and checked as API Gateway does."""

import hashlib
import hmac
import re
from datetime import UTC, datetime, timedelta

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from werkzeug import Request

SERVICE = "execute-api"
FRESH = timedelta(minutes=5)

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/,\s]+)/(\d{8})/([^/,\s]+)/([^/,\s]+)/aws4_request, ?"
    r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})"
)


class ForbiddenError(Exception):
    """When a signature is missing, wrong, or of another time, place or caller."""


def sign(
    method: str, url: str, body: bytes, headers: dict[str, str], access_key: str, secret_key: str, region: str
) -> dict[str, str]:
    """The headers that a request is to be sent with."""
    request = AWSRequest(method, url, headers=headers, data=body)
    SigV4Auth(Credentials(access_key, secret_key), SERVICE, region).add_auth(request)
    return dict(request.headers.items())


def verify(request: Request, body: bytes, access_key: str, secret_key: str, region: str) -> None:
    """Raises ForbiddenError unless the request, as it came, is signed with this key for this region, and just now."""
    found = _AUTHORIZATION.fullmatch(request.headers.get("Authorization", "").strip())
    if found is None:
        raise ForbiddenError("no signature")
    key, date, signed_region, service, names, signature = found.groups()
    if (key, signed_region, service) != (access_key, region, SERVICE):
        raise ForbiddenError("the credential is of another key, region or service")
    signed = names.split(";")
    stamp = request.headers.get("X-Amz-Date", "")
    if not {"host", "x-amz-date"} <= set(signed) or not stamp.startswith(date):
        raise ForbiddenError("host and date are not signed")
    try:
        age = datetime.now(UTC) - datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise ForbiddenError("no date") from None
    if abs(age) > FRESH:
        raise ForbiddenError("the signature is not of now")
    digest = request.headers.get("X-Amz-Content-Sha256")
    if digest is not None and digest != hashlib.sha256(body).hexdigest():
        raise ForbiddenError("the body is not the one that was signed")
    path = request.environ.get("RAW_URI") or request.full_path
    again = AWSRequest(
        request.method,
        f"http://{request.host}{path}",
        headers={name: request.headers.get(name, "") for name in signed},
        data=body,
    )
    again.context["timestamp"] = stamp
    auth = SigV4Auth(Credentials(access_key, secret_key), SERVICE, region)
    wanted = auth.signature(auth.string_to_sign(again, auth.canonical_request(again)), again)
    if not hmac.compare_digest(wanted, signature):
        raise ForbiddenError("the signature is another request's")
