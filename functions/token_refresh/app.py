"""On a schedule: renews Nexi's token and keys before they lapse, so that no phone ever waits for either."""

from typing import Any

from softpos import telemetry
from softpos.enrollment import service


class RefreshFailedError(Exception):
    """When token and keys could not be renewed; the log line before says why."""


def lambda_handler(event: dict[str, Any], context: Any) -> None:  # noqa: ARG001 - Lambda's signature
    """An EventBridge schedule's event, whatever it says. Raises RefreshFailedError, so that the run has failed."""
    telemetry.begin("token_refresh", invocation=context.aws_request_id)
    try:
        service.enrollment().refresh(service.deadline_within(context.get_remaining_time_in_millis()))
    except Exception as error:  # noqa: BLE001 - whatever it is: Lambda would log its text, and only ours may be logged
        telemetry.failed(error)
        raise RefreshFailedError from None
    telemetry.succeeded("token and keys are fresh")
