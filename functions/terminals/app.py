"""/v1/terminals: the pool of terminal pairs and who holds them, for the merchant's back office."""

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from softpos import operators, pairs, problems, snapshot, telemetry, terminals
from softpos.errors import InvalidRequestError
from softpos.pairs import TerminalPair
from softpos.terminals import TerminalRegistry

Event = dict[str, Any]

_LIMIT = re.compile(r"[1-9][0-9]?|[1-4][0-9]{2}|500")

snapshot.prepare(terminals.registry)


def lambda_handler(event: Event, context: Any) -> dict[str, Any]:
    """An HTTP API event (payload 2.0) behind the IAM authorizer; answers with JSON, or an RFC 9457 problem."""
    gateway = event["requestContext"]
    telemetry.begin(
        "terminals", request_id=gateway["requestId"], invocation=context.aws_request_id, route=event["routeKey"]
    )
    try:
        telemetry.note(caller=gateway["authorizer"]["iam"]["userArn"])
        answer = _ROUTES[event["routeKey"]](terminals.registry(), event)
    except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a problem and the log gets the cause
        return problems.problem(error, gateway["requestId"])
    telemetry.succeeded("terminals served")
    return answer


def _import(registry: TerminalRegistry, event: Event) -> dict[str, Any]:
    kind = event["headers"].get("content-type", "").partition(";")[0].strip().lower()
    if kind == "text/csv":
        listed = pairs.from_csv(problems.text(event))
    else:
        listed = pairs.from_json(problems.json_object(event))
    done = registry.add(listed)
    telemetry.note(imported=done.imported, unchanged=done.unchanged)
    return problems.response(200, {"imported": done.imported, "unchanged": done.unchanged})


def _list(registry: TerminalRegistry, event: Event) -> dict[str, Any]:
    asked = problems.query(
        event,
        operator=_optional(_operator),
        point_of_sale=_optional(_identifier),
        state=_optional(lambda value: None if value in ("free", "held") else "is neither free nor held"),
        limit=_optional(lambda value: None if _LIMIT.fullmatch(value) else "is not a number from 1 to 500"),
        after=_optional(lambda value: None if _name(value) else "is not what an earlier answer said"),
    )
    if asked["operator"]:
        if any(value for name, value in asked.items() if name != "operator"):
            raise InvalidRequestError({"operator": "goes with no other parameter"})
        page = registry.page_of(asked["operator"])
    else:
        after = asked["after"] and _name(asked["after"])
        page = registry.page(asked["point_of_sale"], asked["state"], after, int(asked["limit"] or 100))
    after = page.after and base64.urlsafe_b64encode(page.after.encode()).decode()
    return problems.response(200, {"pairs": [_body(pair) for pair in page.pairs], "after": after})


def _show(registry: TerminalRegistry, event: Event) -> dict[str, Any]:
    return _answer(registry.show(_tid(event)))


def _delete(registry: TerminalRegistry, event: Event) -> dict[str, Any]:
    _answer(registry.delete(_tid(event)))
    return problems.response(204, None)


def _assign(registry: TerminalRegistry, event: Event) -> dict[str, Any]:
    tid, asked = _tid(event), problems.members(event, operator=_operator)
    return _answer(registry.assign(asked["operator"], tid))


def _assign_first(registry: TerminalRegistry, event: Event) -> dict[str, Any]:
    asked = problems.members(event, operator=_operator, point_of_sale=_optional(_identifier))
    return _answer(registry.assign(asked["operator"], point_of_sale=asked["point_of_sale"]))


def _release(registry: TerminalRegistry, event: Event) -> dict[str, Any]:
    return _answer(registry.release(_tid(event)))


def _move(registry: TerminalRegistry, event: Event) -> dict[str, Any]:
    asked = problems.members(
        event, operator=_operator, tid=_optional(_identifier), point_of_sale=_optional(_identifier)
    )
    if (asked["tid"] is None) == (asked["point_of_sale"] is None):
        raise InvalidRequestError({"tid": "is to be there, or point_of_sale, and not both"})
    return _answer(registry.assign(asked["operator"], asked["tid"], asked["point_of_sale"], move=True))


def _answer(pair: TerminalPair) -> dict[str, Any]:
    telemetry.note(point_of_sale=pair.point_of_sale, terminal_ids=pair.terminal_ids)
    return problems.response(200, _body(pair))


def _body(pair: TerminalPair) -> dict[str, Any]:
    return {**asdict(pair), "operator": getattr(pair, "operator", None)}


def _tid(event: Event) -> str:
    return str(event["pathParameters"]["tid"])


def _name(after: str) -> str | None:
    """The pair's name that an opaque `after` stands for."""
    try:
        name = base64.b64decode(after, altchars=b"-_", validate=True).decode("ascii")
    except (ValueError, binascii.Error):
        return None
    point_of_sale, _, tid = name.partition("#")
    return name if pairs.is_identifier(point_of_sale) and pairs.is_identifier(tid) else None


def _optional(check: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
    return lambda value: None if value is None else check(value)


def _operator(value: Any) -> str | None:
    return None if operators.is_email(value) else "is not an e-mail"


def _identifier(value: Any) -> str | None:
    return None if pairs.is_identifier(value) else "is not 1 to 32 of letters, digits, dot, dash and underscore"


_ROUTES: dict[str, Callable[[TerminalRegistry, Event], dict[str, Any]]] = {
    "POST /v1/terminals": _import,
    "GET /v1/terminals": _list,
    "GET /v1/terminals/{tid}": _show,
    "DELETE /v1/terminals/{tid}": _delete,
    "PUT /v1/terminals/{tid}/operator": _assign,
    "DELETE /v1/terminals/{tid}/operator": _release,
    "POST /v1/terminals/assignments": _assign_first,
    "POST /v1/terminals/moves": _move,
}
