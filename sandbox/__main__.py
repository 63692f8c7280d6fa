"""`make run`, `make token` and `make invoke`: the stack on this machine, what a phone asks of it, and ways to more."""

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Literal

from botocore.exceptions import BotoCoreError, ClientError

from sandbox.aws import CREDENTIALS
from sandbox.invoke import invoke
from sandbox.local import OPERATOR, SECOND_OPERATOR, LocalStack, PortInUseError, bearer_token
from sandbox.template import REGION

DEVICE_ID = "a-device-id-from-the-sdk"
PORTS = {"API_PORT": 3000, "NEXI_PORT": 8443, "AWS_PORT": 4566, "CONTROL_PORT": 8444}


def main(arguments: list[str]) -> int:
    match arguments:
        case ["run"]:
            return run(once=os.environ.get("ONCE", "") not in ("", "0"))
        case ["token"]:
            return token()
        case ["invoke"]:
            return invoke_function()
    print("usage: python -m sandbox run|token|invoke", file=sys.stderr)
    return 2


def run(*, once: bool) -> int:
    """Start everything, be a phone that starts, and stay up unless `once`. 0 only if it was enrolled."""
    stopping = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, lambda *_: stopping.set())
    journal = Journal()
    try:
        ports = {name.lower(): port(name) for name in PORTS}
        print("starting Nexi, AWS and the API on 127.0.0.1 …", flush=True)
        with LocalStack(parameters=parameters(), signer=signer(), log=journal.line, **ports) as stack:
            print(f"  Nexi  {stack.nexi.base_url}  (its authority: {stack.authority_file})")
            print(f"  AWS   {stack.aws.url}")
            print(f"  API   {stack.gateway.url}")
            print(f"  bad days  {stack.control.url}  (docs/sandbox.md)")
            stack.nexi.faults.add(os.environ.get("FAULTS", ""))
            tell_pool(stack)
            bearer = stack.token()
            configured = tell_configuration(stack, journal, bearer)
            enrolled = tell_enrollment(stack, journal, bearer)
            if once:
                return int(not (configured and enrolled))
            print("\nAnother enrollment (`make token` prints a fresh token):\n")
            print(curl(stack.gateway.url, bearer))
            print("\nThe back office, whose requests are signed with the sandbox's IAM credentials:\n")
            print(signed_curl(stack.gateway.url))
            print("\nCtrl-C stops everything. What the functions and Nexi log from here on:\n", flush=True)
            journal.follow()
            stopping.wait()
            print("\nstopping", flush=True)
            return 0
    except (PortInUseError, ValueError) as error:
        print(f"softpos: {error}", file=sys.stderr)
        return 1


def token() -> int:
    """Print a fresh bearer token of the stack that runs, for OPERATOR."""
    aws_port = port("AWS_PORT")
    try:
        print(bearer_token(f"http://127.0.0.1:{aws_port}", os.environ.get("OPERATOR") or OPERATOR))
    except (BotoCoreError, ClientError, ValueError) as error:
        print(
            f"softpos: nothing to sign in at on AWS_PORT {aws_port} ({type(error).__name__}). "
            "Is `make run` running, with the same AWS_PORT?",
            file=sys.stderr,
        )
        return 1
    return 0


def invoke_function() -> int:
    """Give EVENT to its function of the stack that runs, or to FUNCTION: the log to stderr, the result to stdout.

    0 unless the function raised, or there is no such event, function or stack.
    """
    try:
        aws_port = port("AWS_PORT")
        if not os.environ.get("EVENT"):
            raise ValueError("EVENT=events/….json says what to invoke a function with")
        if not listens(aws_port):
            raise ValueError(f"nothing answers on AWS_PORT {aws_port}. Is `make run` running, with the same AWS_PORT?")
        invoked = invoke(f"http://127.0.0.1:{aws_port}", Path(os.environ["EVENT"]), os.environ.get("FUNCTION", ""))
    except (BotoCoreError, ClientError, OSError, ValueError) as error:
        print(f"softpos: {error}", file=sys.stderr)
        return 1
    print(f"{invoked.function} logged:\n{invoked.log}", file=sys.stderr, flush=True)
    print(json.dumps(invoked.result, indent=2, ensure_ascii=False))
    return int(invoked.failed)


def listens(port_number: int) -> bool:
    """Whether something does there. An AWS client would try for seconds."""
    try:
        socket.create_connection(("127.0.0.1", port_number), timeout=1).close()
    except OSError:
        return False
    return True


def port(name: str) -> int:
    """The port that the environment asks for, or the default. Raises ValueError with a sentence."""
    value = os.environ.get(name) or str(PORTS[name])
    if not value.isascii() or not value.isdigit() or not 0 < int(value) < 65536:
        raise ValueError(f"{name}: {value!r} is not a port from 1 to 65535")
    return int(value)


def parameters() -> dict[str, str]:
    """template.yaml's parameters: the sandbox assigns on first use, and PARAMETERS='Name=value …' has the last word.

    Raises ValueError with a sentence.
    """
    given = {}
    for each in os.environ.get("PARAMETERS", "").split():
        name, separator, value = each.partition("=")
        if not separator:
            raise ValueError(f"PARAMETERS: {each!r} is not Name=value")
        given[name] = value
    return {"AssignOnFirstUse": "true", **given}


def signer() -> Literal["certificate", "kms"]:
    """Which key signs the assertion, by SIGNER. Raises ValueError with a sentence."""
    match os.environ.get("SIGNER") or "certificate":
        case ("certificate" | "kms") as known:
            return known
        case other:
            raise ValueError(f"SIGNER: {other!r} is neither certificate nor kms")


def ask(url: str, bearer: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any], float]:
    """What a phone asks, and is answered: status, body, milliseconds."""
    request = urllib.request.Request(
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"},
    )
    began = time.perf_counter()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as response:
            status, answer = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, answer = error.code, error.read()
    return status, json.loads(answer), (time.perf_counter() - began) * 1000


def tell_pool(stack: LocalStack) -> None:
    """The terminal pairs, and who holds them, as the back office sees it."""
    print("\nGET /v1/terminals as the back office\n")
    for pair in stack.back_office("GET", "/v1/terminals")["pairs"]:
        tids = ", ".join(filter(None, (pair["softpos_tid"], pair["mpos_tid"])))
        print(f"  {pair['point_of_sale']}: {tids:<20} {pair['operator'] or 'free'}")
    print(f"\n  {SECOND_OPERATOR} can sign in, too, and holds nothing until they first use the app.")


def tell_configuration(stack: LocalStack, journal: "Journal", bearer: str) -> bool:
    """What the SDK is built from. Whether it was given."""
    status, answer, took_ms = ask(f"{stack.gateway.url}/v1/app-configuration", bearer)
    print(f"\nGET /v1/app-configuration as {OPERATOR}\n")
    if status != 200:
        tell_failure(journal, status, answer, took_ms)
        return False
    for name, value in answer.items():
        print(f"  {name:<16}{json.dumps(value)}")
    print(f"\n  200 after {took_ms:.0f} ms, the cold start of the function included", flush=True)
    return True


def tell_enrollment(stack: LocalStack, journal: "Journal", bearer: str) -> bool:
    """Each step with its time, from the function's own log line, Nexi's record and the answer. Whether it succeeded."""
    status, answer, took_ms = ask(f"{stack.gateway.url}/v1/enrollments", bearer, {"device_id": DEVICE_ID})
    line = journal.outcome(answer.get("request_id"))
    print(f"\nPOST /v1/enrollments as {OPERATOR}\n")

    def step(name: str, field: str, what: str) -> None:
        if field in line:
            print(f"  {name:<12}{line[field]:>8.1f} ms   {what}")

    step("terminals", "registry_ms", f"{line.get('point_of_sale')}: {', '.join(line.get('terminal_ids', []))}")
    step("token", "token_ms", f"client {stack.app.client_id}, secret ********, over mutual TLS")
    step("keys", "keys_ms", "Nexi's JWKS, the first key that is for encryption")
    key = "a key in KMS" if stack.signing_certificate else "the certificate's key"
    step("assertion", "assertion_ms", f"RS256 with {key}, then RSA-OAEP-256 and A128CBC-HS256:")
    pushed = next((call for call in reversed(stack.nexi.calls) if call.claims), None)
    if pushed and pushed.claims:
        for claim, value in pushed.claims.items():
            print(f"  {'':<26}{claim:<22} {json.dumps(value)}")
    step("PAR", "par_ms", "Authorization: Bearer ********, client_assertion ********")
    if status != 201:
        tell_failure(journal, status, answer, took_ms)
        return False
    print(f"\n  201 after {took_ms:.0f} ms, the cold start of the function included")
    print(f"  request_uri  {answer['request_uri']}")
    print(f"  valid until  {answer['expires_at']}, {answer['expires_in']} s from the push", flush=True)
    return True


def tell_failure(journal: "Journal", status: int, answer: dict[str, Any], took_ms: float) -> None:
    """The problem, and what the function's log says of it."""
    line = journal.outcome(answer.get("request_id"))
    print(f"\n  {status} after {took_ms:.0f} ms: {json.dumps(answer, indent=2)}")
    print("  the function's log:\n" + (json.dumps(line, indent=2) if line else journal.everything()), flush=True)


def curl(api_url: str, bearer: str) -> str:
    """A line to paste."""
    return (
        f"curl -sS -X POST {api_url}/v1/enrollments -H 'Content-Type: application/json' "
        f"-H 'Authorization: Bearer {bearer}' -d '{json.dumps({'device_id': DEVICE_ID})}'"
    )


def signed_curl(api_url: str) -> str:
    """A line to paste, for the back office."""
    user = f"{CREDENTIALS['AWS_ACCESS_KEY_ID']}:{CREDENTIALS['AWS_SECRET_ACCESS_KEY']}"
    return f"curl -sS --aws-sigv4 aws:amz:{REGION}:execute-api --user {user} {api_url}/v1/terminals"


class Journal:
    """The functions' and Nexi's log lines: kept at first, printed as they come once followed."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._arrived = threading.Condition()
        self._following = False

    def line(self, source: str, text: str) -> None:
        """Take one line of one function's log."""
        with self._arrived:
            self._lines.append(text)
            self._arrived.notify_all()
        if self._following:
            print(f"{source} | {text}", flush=True)

    def everything(self) -> str:
        """All that was logged so far."""
        with self._arrived:
            return "\n".join(self._lines)

    def follow(self) -> None:
        """Print what comes from now on, and what Nexi says of it."""
        self._following = True
        logging.basicConfig(format="%(name)s | %(message)s", stream=sys.stdout)
        logging.getLogger("nexi").setLevel(logging.INFO)

    def outcome(self, request_id: str | None = None) -> dict[str, Any]:
        """A request's line; an enrollment's without an id. The function has answered; its log comes a moment later."""
        wanted = f'"request_id":"{request_id}"' if request_id else '"par_ms"'
        with self._arrived:
            self._arrived.wait_for(lambda: any(wanted in line for line in self._lines), timeout=2)
            found: dict[str, Any] = next((json.loads(line) for line in self._lines if wanted in line), {})
        return found


sys.exit(main(sys.argv[1:]))
