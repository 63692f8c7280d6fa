"""Nothing that is secret is ever printed: not by the functions, not by Nexi's log, not to the phone.

Not on the good path, not on any failure, not at DEBUG, and not when Nexi itself hands back what it was sent.
"""

import base64
import html
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from backends import Backend, backend, bearer, client, handler_folder, table
from failures import FAILURES, Outcome, Scene, nexi_like
from leaks import KEY_SLICE, SLICE, in_request, leaks, of_key, recorded
from lines import Lines
from servers import Request, reply

from sandbox.local import LocalStack

REAL_APP = Path(__file__).parent.parent.parent / "functions" / "enrollment" / "app.py"
AT_DEBUG = f"""
import importlib.util
import logging
import sys

logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
spec = importlib.util.spec_from_file_location("enrollment", {str(REAL_APP)!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)


def lambda_handler(event, context):
    logging.getLogger("canary").debug("this is at DEBUG")
    return module.lambda_handler(event, context)
"""
LOUD = {"POWERTOOLS_LOG_LEVEL": "DEBUG", "AWS_LAMBDA_LOG_LEVEL": "DEBUG", "LOG_LEVEL": "DEBUG"}


# ---------------------------------------------------------------- the search itself


def test_the_search_finds_a_secret_whole_in_part_and_in_every_spelling(stack: LocalStack) -> None:
    secret = 'p@ss w/ord+&="quoted"<0123456789>'
    key = stack.developer.key_pem
    body = "".join(key.splitlines()[5:8])
    assert leaks(f"said {secret}", [secret])
    assert leaks(f"said {secret[5 : 5 + SLICE]} …", [secret])
    assert leaks(json.dumps({"said": secret}), [secret])
    assert leaks(html.escape(secret), [secret])
    assert leaks("client_secret=p%40ss+w%2Ford%2B%26%3D%22quoted%22", [secret])
    assert leaks(key, of_key(key))
    assert leaks(repr(key), of_key(key))
    assert leaks(body[7 : 7 + KEY_SLICE], of_key(key))
    assert leaks(base64.b64encode(f"and {secret} too".encode()).decode(), [secret])
    assert leaks(base64.urlsafe_b64encode(f"so, {secret}".encode()).decode(), [secret])
    assert not leaks("nothing of the kind", [secret, *of_key(key)])


# ---------------------------------------------------------------- the good path


@pytest.mark.parametrize("loud", [False, True], ids=["as deployed", "with everything at DEBUG"])
def test_nothing_secret_is_printed_when_all_goes_well(
    loud: bool, start_backend: Callable[..., Backend], stack: LocalStack, nexi_lines: Lines, tmp_path: Path
) -> None:
    changes = {"folder": handler_folder(tmp_path / "function", AT_DEBUG)} if loud else {}
    api = start_backend(LOUD if loud else {}, **changes)
    with recorded(stack.nexi) as wire:
        responses = [api.enroll() for _ in range(2)]
    for response in responses:
        assert response.status_code == 201
        api.line(response)

    hidden = [*wire, bearer(stack), stack.app.client_secret, *of_key(stack.developer.key_pem)]
    assert len(wire) >= 6, "a secret, an access token given, and twice a bearer and an assertion"
    assert ("this is at DEBUG" in api.lines.text) == loud
    assert responses[0].json()["request_uri"] not in api.lines.text + nexi_lines.text
    printed = "\n".join([api.lines.text, nexi_lines.text, *(f"{each.headers}{each.text}" for each in responses)])
    assert leaks(printed, hidden) == []


# ---------------------------------------------------------------- every failure


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)
def test_nothing_secret_is_printed_for(failure: object, provoke: Callable[[str], Outcome]) -> None:
    outcome = provoke(failure.name)
    assert outcome.line["message"] in outcome.printed.replace('\\"', '"')
    assert leaks(outcome.printed, outcome.hidden) == []


# ---------------------------------------------------------------- a Nexi that hands back what it was sent


def _everything(request: Request) -> dict[str, str]:
    form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
    return {"authorization": request.headers.get("authorization", ""), "form": request.body.decode(), **form}


def _as_json(status: str) -> Callable[[Request], bytes]:
    return lambda request: reply(status, json.dumps(_everything(request)).encode())


def _after_padding(request: Request) -> bytes:
    """The secret lies across the place where the layer cuts the body, so that no longer all of it is there to see."""
    secret = in_request(request.headers.get("authorization"), request.body)[-1]
    return reply("400 Bad Request", b" " * (2048 - SLICE - 4) + secret.encode())


def _in_the_status_line(request: Request) -> bytes:
    said = " ".join(_everything(request).values()).replace("\r", "").replace("\n", "")
    return reply(f"400 {said}"[:8000], b"{}")


def _as_the_status_line(request: Request) -> bytes:
    return reply(" ".join(_everything(request).values()), b"{}")


def _in_the_headers(request: Request) -> bytes:
    said = [(f"X-{name}", value) for name, value in _everything(request).items()]
    location = [("Location", f"https://127.0.0.1:1/?{request.body.decode()}")]
    return reply("302 Found", b"", [*said, *location])


def _after_a_malformed_header(request: Request) -> bytes:
    """urllib3 logs what follows it."""
    said = "".join(f"X-{name}: {value}\r\n" for name, value in _everything(request).items())
    return f"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\nBad Header: yes\r\n{said}\r\n{{}}".encode()


def _in_the_media_type(request: Request) -> bytes:
    said = in_request(request.headers.get("authorization"), request.body)[-1]
    return reply("200 OK", b"", [("Content-Encoding", said)], content_type=said)


def _in_cookies(request: Request) -> bytes:
    said = [("Set-Cookie", f"{value}; Expires={value}") for value in _everything(request).values()]
    return reply("400 Bad Request", b"{}", said)


def _in_base64(request: Request) -> bytes:
    said = base64.b64encode(" ".join(_everything(request).values()).encode()).decode()
    parts = [said[at : at + 24] for at in range(0, 96, 24)]
    return reply("400 Bad Request", json.dumps({"message": said, "parts": parts}).encode())


def _as_the_answer(request: Request) -> bytes:
    """The secrets where the answer should be, in values that the layer must refuse."""
    said = _everything(request)
    answer = {"access_token": f"{said} ", "token_type": f"{said}", "expires_in": f"{said}", "request_uri": f"{said} "}
    return reply("200 OK", json.dumps(answer).encode())


ECHOES: dict[str, Callable[[Request], bytes]] = {
    "a 400 in JSON": _as_json("400 Bad Request"),
    "a 401 in JSON": _as_json("401 Unauthorized"),
    "a 403 in JSON": _as_json("403 Forbidden"),
    "a 418 in JSON": _as_json("418 Teapot"),
    "a 503 in JSON": _as_json("503 Unavailable"),
    "a 200 in JSON": _as_json("200 OK"),
    "a form": lambda request: reply("400 Bad Request", request.body, content_type="application/x-www-form-urlencoded"),
    "the whole request in text": lambda request: reply("400 Bad", request.head.encode() + b"\r\n\r\n" + request.body),
    "a page": lambda request: reply(
        "400 Bad Request", html.escape("<br>".join(_everything(request).values())).encode(), content_type="text/html"
    ),
    "a text that is cut in the middle of it": _after_padding,
    "a JSON text with escaped slashes": lambda request: reply(
        "400 Bad Request", json.dumps(_everything(request)).replace("/", "\\/").encode()
    ),
    "a status line": _in_the_status_line,
    "what should be the status": _as_the_status_line,
    "headers of a redirect": _in_the_headers,
    "headers after a malformed one": _after_a_malformed_header,
    "a media type and a content coding": _in_the_media_type,
    "odd cookies": _in_cookies,
    "base64": _in_base64,
    "an answer": _as_the_answer,
}

PLAIN = "client-secret-of-40-characters-all-plain"
SPECIAL = 'p@ss/w+ord&"of<40>%characters=not\\plain!'
LONG_TOKEN = "access-token-of-48-characters-0123456789-abcdefg"
SHORT_TOKEN = "short:token!of:24:chars~"


class Adversary:
    """Echoes on one call, is Nexi on the others, and remembers what it was sent."""

    def __init__(self, stack: LocalStack, access_token: str) -> None:
        self.stack = stack
        self.access_token = access_token
        self.sent: list[str] = []
        self.last = Request("GET", "/", "", {}, b"")
        self.echo: Callable[[Request], bytes] | None = None
        self.where = "/token"
        self.cache_table = ""

    def __call__(self, request: Request) -> bytes:
        if secrets := in_request(request.headers.get("authorization"), request.body):
            self.sent += secrets
            self.last = request
        if self.echo and request.path.endswith(self.where):
            # The keys are asked for without a secret: that call gets those of the one before.
            return self.echo(self.last)
        good = json.dumps({"access_token": self.access_token, "expires_in": 1}).encode()
        return nexi_like(self.stack, token=reply("200 OK", good))(request)


@pytest.fixture(scope="module", params=[(PLAIN, LONG_TOKEN), (SPECIAL, SHORT_TOKEN)], ids=["plain", "special"])
def adversary(request: pytest.FixtureRequest, stack: LocalStack) -> Iterator[tuple[Adversary, Backend]]:
    """A Nexi that echoes, and warm functions that talk to it: with secrets of letters, and of everything else."""
    client_secret, access_token = request.param
    with ExitStack() as running:
        scene = Scene(stack, running)
        nexi = Adversary(stack, access_token)
        environment = {**scene.application(client_secret=client_secret), **scene.fake(nexi)}
        nexi.cache_table = environment["CACHE_TABLE"] = table(stack, "CacheTable")
        yield nexi, running.enter_context(backend(stack, environment))


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("where", ["/token", "/jwks.json", "/par"])
def test_nothing_secret_is_printed_when_nexi_echoes_it_in(
    echo: str, where: str, adversary: tuple[Adversary, Backend]
) -> None:
    nexi, api = adversary
    # What one of these does to the circuit is not the next one's.
    api.cool()
    dynamodb = client(api.stack, "dynamodb")
    for item in dynamodb.scan(TableName=nexi.cache_table)["Items"]:
        dynamodb.delete_item(TableName=nexi.cache_table, Key={"id": item["id"]})
    api.lines.clear()
    nexi.sent.clear()
    nexi.echo, nexi.where = ECHOES[echo], where

    response = api.enroll()

    assert response.status_code in (500, 502, 503), response.text
    api.line(response)
    assert nexi.sent, "nothing secret was sent"
    printed = f"{api.lines.text}\n{response.reason}\n{response.headers}\n{response.text}"
    assert leaks(printed, [*nexi.sent, nexi.access_token, bearer(api.stack)]) == [], printed


def test_nothing_secret_is_in_the_functions_environment(stack: LocalStack) -> None:
    hidden = [stack.app.client_secret, *of_key(stack.developer.key_pem)]
    for function in stack.template.functions().values():
        assert leaks(os.linesep.join(function.environment.values()), hidden) == []
