"""GET /v1/app-configuration: what the SDK's App2AppIPC is built from, for the operator who asks."""

from dataclasses import asdict
from typing import Any

from softpos import app_configuration, problems, snapshot, telemetry

snapshot.prepare(app_configuration.service)


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """An HTTP API event (payload 2.0) behind the JWT authorizer; answers 200 or an RFC 9457 problem."""
    gateway = event["requestContext"]
    telemetry.begin("app_configuration", request_id=gateway["requestId"], invocation=context.aws_request_id)
    try:
        configuration = app_configuration.service().obtain(gateway["authorizer"]["jwt"]["claims"])
    except Exception as error:  # noqa: BLE001 - whatever it is, the phone gets a problem and the log gets the cause
        return problems.problem(error, gateway["requestId"])
    telemetry.succeeded("app configuration given")
    return problems.response(200, asdict(configuration))
