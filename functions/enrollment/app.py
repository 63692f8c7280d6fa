"""POST /v1/enrollments: the phone's device id in, a request_uri out."""

import re
from datetime import UTC, datetime
from typing import Any

from softpos import operators, problems, snapshot, telemetry
from softpos.enrollment import service
from softpos.errors import InvalidRequestError

snapshot.prepare(service.enrollment)


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """An HTTP API event (payload 2.0) behind the JWT authorizer; answers 201 or an RFC 9457 problem."""
    gateway = event["requestContext"]
    telemetry.begin("enrollment", request_id=gateway["requestId"], invocation=context.aws_request_id)
    try:
        email = operators.email_of(gateway["authorizer"]["jwt"]["claims"])
        device_id = problems.members(event, device_id=problems.device_id)["device_id"]
        deadline = service.deadline_within(context.get_remaining_time_in_millis())
        pushed = service.enrollment().enroll(email, device_id, deadline, _idempotency_key(event["headers"]))
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
