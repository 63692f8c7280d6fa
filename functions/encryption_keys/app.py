"""GET /v1/jwks.json: Nexi's encryption keys, for the SDK's payment_assertion. Nexi's own endpoint answers us alone."""

from typing import Any

from softpos import operators, problems, snapshot, telemetry
from softpos.enrollment import service
from softpos.nexi import client

_MAX_AGE_SECONDS = 300
"""Nexi may rotate its keys at any time: a device learns of it this long after us, at the latest."""

snapshot.prepare(client.channel)


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """An HTTP API event (payload 2.0) behind the JWT authorizer; answers 200 with a JWK set, or an RFC 9457 problem."""
    gateway = event["requestContext"]
    telemetry.begin("encryption_keys", request_id=gateway["requestId"], invocation=context.aws_request_id)
    try:
        operators.email_of(gateway["authorizer"]["jwt"]["claims"])
        published = client.channel().keys(service.deadline_within(context.get_remaining_time_in_millis()))
    except Exception as error:  # noqa: BLE001 - whatever it is, the phone gets a problem and the log gets the cause
        return problems.problem(error, gateway["requestId"])
    telemetry.succeeded("encryption keys given")
    max_age = min(published.usable_for, _MAX_AGE_SECONDS)
    keys = {"keys": [key.jwk() for key in published.keys]}
    return problems.response(200, keys, {"cache-control": f"private, max-age={max_age}"})
