"""On a schedule: how long the developer certificate lasts, and whether it fits, as metrics that have alarms."""

from typing import Any

from softpos import certificate_watch, telemetry


class WatchFailedError(Exception):
    """When nobody could look at the certificate; the log line before says why."""


def lambda_handler(event: dict[str, Any], context: Any) -> None:  # noqa: ARG001 - Lambda's signature
    """An EventBridge schedule's event, whatever it says. Raises WatchFailedError, so that Lambda tries again.

    A certificate that does not fit is an answer: the run succeeds, and the metric has the alarm.
    """
    telemetry.begin("certificate_watch", invocation=context.aws_request_id)
    try:
        unfit = certificate_watch.watch()
    except Exception as error:  # noqa: BLE001 - whatever it is: Lambda would log its text, and only ours may be logged
        telemetry.failed(error)
        raise WatchFailedError from None
    if unfit is None:
        telemetry.succeeded("key and certificate fit")
    else:
        telemetry.failed(unfit)
