"""POST /v1/enrollments: the phone's device id in, a request_uri out."""

import re
from datetime import UTC, datetime
from typing import Any

from softpos import enrollment, problems, telemetry, terminals
from softpos.errors import InvalidRequestError

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """An HTTP API event (payload 2.0) behind the JWT authorizer; answers 201 or an RFC 9457 problem."""
    gateway = event["requestContext"]
    telemetry.begin(request_id=gateway["requestId"], invocation=context.aws_request_id)
    try:
        email = terminals.operator_email(gateway["authorizer"]["jwt"]["claims"])
        device_id = _device_id(problems.json_object(event.get("body"), event.get("isBase64Encoded", False)))
        deadline = enrollment.deadline_within(context.get_remaining_time_in_millis())
        pushed = enrollment.service().enroll(email, device_id, deadline, _idempotency_key(event["headers"]))
    except Exception as error:  # noqa: BLE001 - whatever it is, the phone gets a problem and the log gets the cause
        return problems.problem(error, gateway["requestId"])
    telemetry.succeeded("enrollment pushed")
    expires_at = datetime.fromtimestamp(pushed.expires_at, UTC).isoformat().replace("+00:00", "Z")
    return problems.response(
        201, {"request_uri": pushed.request_uri, "expires_in": pushed.expires_in, "expires_at": expires_at}
    )


def _idempotency_key(headers: dict[str, str]) -> str | None:
    key = headers.get("idempotency-key")
    if key is not None and not re.fullmatch(r"[ -~]{1,255}", key):
        raise InvalidRequestError({"Idempotency-Key": "is not 1 to 255 printable ASCII characters"})
    return key


def _device_id(body: dict[str, Any]) -> str:
    unknown = sorted(name for name in body if name != "device_id")
    wrong = {name[:40]: "is not known here" for name in unknown[:10]}
    match body.get("device_id"):
        case str(device_id) if 0 < len(device_id) <= 128 and not _CONTROL.search(device_id):
            if wrong:
                raise InvalidRequestError(wrong)
            return device_id
        case "":
            wrong["device_id"] = "is empty"
        case str(device_id) if len(device_id) > 128:
            wrong["device_id"] = "is longer than 128 characters"
        case str():
            wrong["device_id"] = "holds control characters"
        case _:
            wrong["device_id"] = "is not a string" if "device_id" in body else "is missing"
    raise InvalidRequestError(wrong)
