"""What the phone is told: RFC 9457 problems. The one table from our codes to HTTP.

The only module of the layer that knows an HTTP status of ours. It says nothing that Nexi, AWS or an exception said.
"""

import base64
import binascii
import json
from typing import Any

from softpos import telemetry
from softpos.errors import InvalidRequestError, SoftposError

_PROBLEMS = {
    "invalid_request": (400, "The request is not valid", "See errors for what is wrong with it."),
    "operator_unknown": (403, "The operator is not known", "The bearer token carries no verified e-mail."),
    "terminal_not_assigned": (409, "No terminal is assigned", "The operator holds no terminal. Have one assigned."),
    "idempotency_key_reused": (422, "The Idempotency-Key was used before", "Use a new key for another request."),
    "enrollment_in_progress": (409, "The enrollment is under way", "Ask again after the seconds in Retry-After."),
    "nexi_rejected": (502, "Nexi refused the enrollment", "Trying again will not help. The backend's log says why."),
    "nexi_unavailable": (503, "Nexi cannot be reached", "Try again after the seconds in Retry-After."),
    "nexi_timeout": (504, "Nexi did not answer in time", "Try again after the seconds in Retry-After."),
    "misconfigured": (500, "The backend is misconfigured", "Trying again will not help. The backend's log says why."),
    "internal_error": (500, "Something went wrong", "The backend's log says what, under this request id."),
}

_RETRY_AFTER_SECONDS = {"nexi_unavailable": 5, "nexi_timeout": 5, "enrollment_in_progress": 1}


def response(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> dict[str, Any]:
    """A Lambda proxy response with a JSON body that nobody may store."""
    return {
        "statusCode": status,
        "headers": {"content-type": "application/json", "cache-control": "no-store", **(headers or {})},
        "body": json.dumps(body),
        "isBase64Encoded": False,
    }


def problem(error: Exception, request_id: str) -> dict[str, Any]:
    """Log the error, and answer with its problem. What is no SoftposError becomes an internal_error."""
    telemetry.failed(error)
    code = error.code if isinstance(error, SoftposError) else SoftposError.code
    status, title, detail = _PROBLEMS[code]
    body: dict[str, Any] = {
        "type": f"urn:softpos:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
    }
    if isinstance(error, InvalidRequestError):
        body["detail"] = str(error)
        body["errors"] = [{"member": name, "detail": reason} for name, reason in error.members.items()]
    headers = {"content-type": "application/problem+json"}
    retry_after = (error.retry_after if isinstance(error, SoftposError) else None) or _RETRY_AFTER_SECONDS.get(code)
    if retry_after:
        headers["retry-after"] = str(retry_after)
    return response(status, body, headers)


def json_object(body: str | None, is_base64: bool) -> dict[str, Any]:
    """The JSON object that a request's body is. Raises InvalidRequestError."""
    if not body:
        raise InvalidRequestError({"body": "is missing"})
    try:
        text = base64.b64decode(body, validate=True).decode() if is_base64 else body
        value = json.loads(text)
    except (ValueError, RecursionError, binascii.Error):
        raise InvalidRequestError({"body": "is not JSON"}) from None
    if not isinstance(value, dict):
        raise InvalidRequestError({"body": "is not a JSON object"})
    return value
