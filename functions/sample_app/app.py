"""What Nexi's published Android sample asks its backend for, so that it runs against a staging stack as it is.

Source: the sample's own contract. The same code underneath as for every app; no second way to enroll.
"""

from collections.abc import Callable
from typing import Any

from softpos import app_configuration, operators, problems, sign_in, telemetry
from softpos.credentials import application_store
from softpos.enrollment import service
from softpos.errors import InvalidRequestError

Event = dict[str, Any]


def lambda_handler(event: Event, context: Any) -> dict[str, Any]:
    """An HTTP API event (payload 2.0), behind the JWT authorizer but for the login; 200 or an RFC 9457 problem."""
    gateway = event["requestContext"]
    telemetry.begin(
        "sample_app", request_id=gateway["requestId"], invocation=context.aws_request_id, route=event["routeKey"]
    )
    try:
        body = _ROUTES[event["routeKey"]](event, context)
    except Exception as error:  # noqa: BLE001 - whatever it is, the app gets a problem and the log gets the cause
        return problems.problem(error, gateway["requestId"])
    telemetry.succeeded("sample app served")
    return problems.response(200, body)


def _login(event: Event, _context: Any) -> dict[str, Any]:
    asked = problems.members(event, email=_text, password=_text)
    session_id = sign_in.id_token(asked["email"], asked["password"])
    return {"session_id": session_id, "success": session_id is not None}


def _obtain(event: Event, _context: Any) -> dict[str, Any]:
    # The body is `null`: the sample has nothing to say.
    configuration = app_configuration.service().obtain(_claims(event))
    return {
        "client_id": configuration.app_id,
        "android_app_user_config": {
            "point_of_sale": configuration.point_of_sale,
            "terminal_id_softpos": configuration.softpos_tid,
            "terminal_id_mpos": configuration.mpos_tid,
        },
    }


def _execute(event: Event, context: Any) -> dict[str, Any]:
    email = operators.email_of(_claims(event))
    asked = problems.members(event, redirect_uri=_text, device_id=problems.device_id)
    if asked["redirect_uri"] != application_store().get().redirect_uri:
        raise InvalidRequestError({"redirect_uri": "is not the one that the application secret has"})
    deadline = service.deadline_within(context.get_remaining_time_in_millis())
    pushed = service.enrollment().enroll(email, asked["device_id"], deadline)
    return {"request_uri": pushed.request_uri, "expires_in": pushed.expires_in}


def _claims(event: Event) -> dict[str, str]:
    claims: dict[str, str] = event["requestContext"]["authorizer"]["jwt"]["claims"]
    return claims


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) and 0 < len(value) <= 2048 else "is not a string of 1 to 2048 characters"


_ROUTES: dict[str, Callable[[Event, Any], dict[str, Any]]] = {
    "POST /user/login": _login,
    "POST /android-app-config/obtain": _obtain,
    "POST /par/execute": _execute,
}
