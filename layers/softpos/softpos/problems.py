"""The edge to API Gateway: bodies in, answers and RFC 9457 problems out. The one table from our codes to HTTP.

The only module of the layer that knows an event or an HTTP status of ours. A problem says nothing that Nexi, AWS or a
foreign exception said.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable
from typing import Any

from softpos import telemetry
from softpos.errors import InvalidRequestError, SoftposError

_PROBLEMS = {
    "invalid_request": (400, "The request is not valid", "See errors for what is wrong with it."),
    "operator_unknown": (403, "The operator is not known", "The bearer token carries no verified e-mail."),
    "point_of_sale_unknown": (
        403,
        "The point of sale is not known",
        "The bearer token lacks the point of sale's claim.",
    ),
    "no_terminal_free": (409, "No terminal is free", "Every terminal of the point of sale, or of the pool, is held."),
    "terminal_unknown": (404, "There is no such terminal", "The pool has no pair with this TID."),
    "terminal_held": (409, "The terminal is held", "An operator holds it. Release it first."),
    "operator_holds_terminal": (409, "The operator holds another terminal", "Release it first, or move the operator."),
    "pairs_refused": (422, "The pairs cannot be imported", "See errors. Nothing was imported."),
    "registry_busy": (503, "The terminals are being changed", "Try again after the seconds in Retry-After."),
    "too_many_enrollments": (429, "Too many enrollments", "Try again after the seconds in Retry-After."),
    "terminal_not_assigned": (409, "No terminal is assigned", "The operator holds no terminal. Have one assigned."),
    "idempotency_key_reused": (422, "The Idempotency-Key was used before", "Use a new key for another request."),
    "enrollment_in_progress": (409, "The enrollment is under way", "Ask again after the seconds in Retry-After."),
    "backend_unavailable": (503, "The backend is not available", "Try again after the seconds in Retry-After."),
    "signing_unavailable": (503, "The request cannot be signed", "Try again after the seconds in Retry-After."),
    "nexi_rejected": (502, "Nexi refused the enrollment", "Trying again will not help. The backend's log says why."),
    "nexi_unavailable": (503, "Nexi cannot be reached", "Try again after the seconds in Retry-After."),
    "nexi_timeout": (504, "Nexi did not answer in time", "Try again after the seconds in Retry-After."),
    "misconfigured": (500, "The backend is misconfigured", "Trying again will not help. The backend's log says why."),
    "internal_error": (500, "Something went wrong", "The backend's log says what, under this request id."),
}

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

_RETRY_AFTER_SECONDS = {
    "nexi_unavailable": 5,
    "nexi_timeout": 5,
    "enrollment_in_progress": 1,
    "registry_busy": 1,
    "backend_unavailable": 2,
    "signing_unavailable": 2,
    "too_many_enrollments": 60,
}


def response(status: int, body: dict[str, Any] | None, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """A Lambda proxy response with a JSON body, or none, that nobody may store unless `headers` say otherwise."""
    kind = {} if body is None else {"content-type": "application/json"}
    return {
        "statusCode": status,
        "headers": {**kind, "cache-control": "no-store", **(headers or {})},
        "body": "" if body is None else json.dumps(body),
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
        if code == "invalid_request":
            body["detail"] = str(error)
        body["errors"] = [{"member": name, "detail": reason} for name, reason in error.members.items()]
    headers = {"content-type": "application/problem+json"}
    retry_after = (error.retry_after if isinstance(error, SoftposError) else None) or _RETRY_AFTER_SECONDS.get(code)
    if retry_after:
        headers["retry-after"] = str(retry_after)
    return response(status, body, headers)


def text(event: dict[str, Any]) -> str:
    """The text that an event's body is. Raises InvalidRequestError."""
    body = event.get("body")
    if not body:
        raise InvalidRequestError({"body": "is missing"})
    if not event.get("isBase64Encoded", False):
        return str(body)
    try:
        return base64.b64decode(body, validate=True).decode()
    except (ValueError, binascii.Error):
        raise InvalidRequestError({"body": "is not text in UTF-8"}) from None


def json_object(event: dict[str, Any]) -> dict[str, Any]:
    """The JSON object that an event's body is. Raises InvalidRequestError."""
    try:
        value = json.loads(text(event))
    except (ValueError, RecursionError):
        raise InvalidRequestError({"body": "is not JSON"}) from None
    if not isinstance(value, dict):
        raise InvalidRequestError({"body": "is not a JSON object"})
    return value


Check = Callable[[Any], str | None]
"""Says what is wrong with a value, None if nothing is. A value that is not there is None."""


def members(event: dict[str, Any], **checks: Check) -> dict[str, Any]:
    """The members of an event's JSON object, each checked, and no other. Raises InvalidRequestError with all of it."""
    return _checked(json_object(event), checks)


def query(event: dict[str, Any], **checks: Check) -> dict[str, Any]:
    """The parameters of an event's query, each checked, and no other. Raises InvalidRequestError with all of it."""
    return _checked(event.get("queryStringParameters") or {}, checks)


def device_id(value: Any) -> str | None:
    """What is wrong with a device id: it is what the SDK handed to the app, 1 to 128 characters."""
    if not isinstance(value, str):
        return "is not a string"
    if not value:
        return "is empty"
    if len(value) > 128:
        return "is longer than 128 characters"
    return "holds control characters" if _CONTROL.search(value) else None


def _checked(given: dict[str, Any], checks: dict[str, Check]) -> dict[str, Any]:
    unknown = sorted(name for name in given if name not in checks)
    wrong = {name[:40]: "is not known here" for name in unknown[:10]}
    for name, check in checks.items():
        reason = check(given.get(name))
        if reason is not None:
            wrong[name] = reason if name in given else "is missing"
    if wrong:
        raise InvalidRequestError(wrong)
    return {name: given.get(name) for name in checks}
