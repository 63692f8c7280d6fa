"""`make run` and `make token`: the stack on this machine, one enrollment through it, and a bearer token for more."""

import json
import logging
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from sandbox.local import OPERATOR, LocalStack, PortInUseError, bearer_token

DEVICE_ID = "a-device-id-from-the-sdk"
PORTS = {"API_PORT": 3000, "NEXI_PORT": 8443, "AWS_PORT": 4566, "CONTROL_PORT": 8444}


def main(arguments: list[str]) -> int:
    match arguments:
        case ["run"]:
            return run(once=os.environ.get("ONCE", "") not in ("", "0"))
        case ["token"]:
            return token()
    print("usage: python -m sandbox run|token", file=sys.stderr)
    return 2


def run(*, once: bool) -> int:
    """Start everything, enroll once, and stay up unless `once`. 0 only if the enrollment succeeded."""
    stopping = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, lambda *_: stopping.set())
    journal = Journal()
    try:
        ports = {name.lower(): port(name) for name in PORTS}
        print("starting Nexi, AWS and the API on 127.0.0.1 …", flush=True)
        with LocalStack(log=journal.line, **ports) as stack:
            print(f"  Nexi  {stack.nexi.base_url}  (its authority: {stack.authority_file})")
            print(f"  AWS   {stack.aws.url}")
            print(f"  API   {stack.gateway.url}")
            print(f"  bad days  {stack.control.url}  (docs/sandbox.md)")
            stack.nexi.faults.add(os.environ.get("FAULTS", ""))
            bearer = stack.token()
            status, answer, took_ms = enroll(stack.gateway.url, bearer)
            tell(stack, journal, status, answer, took_ms)
            if once:
                return int(status != 201)
            print("\nAnother one, with a token that is good for an hour (`make token` prints a fresh one):\n")
            print(curl(stack.gateway.url, bearer))
            print("\nCtrl-C stops everything. What the functions and Nexi log from here on:\n", flush=True)
            journal.follow()
            stopping.wait()
            print("\nstopping", flush=True)
            return 0
    except (PortInUseError, ValueError) as error:
        print(f"softpos: {error}", file=sys.stderr)
        return 1


def token() -> int:
    """Print a fresh bearer token of the stack that runs."""
    aws_port = port("AWS_PORT")
    try:
        print(bearer_token(f"http://127.0.0.1:{aws_port}"))
    except (BotoCoreError, ClientError, ValueError) as error:
        print(
            f"softpos: nothing to sign in at on AWS_PORT {aws_port} ({type(error).__name__}). "
            "Is `make run` running, with the same AWS_PORT?",
            file=sys.stderr,
        )
        return 1
    return 0


def port(name: str) -> int:
    """The port that the environment asks for, or the default. Raises ValueError with a sentence."""
    value = os.environ.get(name) or str(PORTS[name])
    if not value.isascii() or not value.isdigit() or not 0 < int(value) < 65536:
        raise ValueError(f"{name}: {value!r} is not a port from 1 to 65535")
    return int(value)


def enroll(api_url: str, bearer: str) -> tuple[int, dict[str, Any], float]:
    """One enrollment, as a phone asks for it: status, body, milliseconds."""
    request = urllib.request.Request(
        f"{api_url}/v1/enrollments",
        data=json.dumps({"device_id": DEVICE_ID}).encode(),
        headers={"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"},
    )
    began = time.perf_counter()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as response:
            status, body = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read()
    return status, json.loads(body), (time.perf_counter() - began) * 1000


def tell(stack: LocalStack, journal: "Journal", status: int, answer: dict[str, Any], took_ms: float) -> None:
    """Each step with its time, out of the function's own log line, Nexi's record and the answer."""
    line = journal.outcome()
    print(f"\nPOST /v1/enrollments as {OPERATOR}\n")

    def step(name: str, field: str, what: str) -> None:
        if field in line:
            print(f"  {name:<12}{line[field]:>8.1f} ms   {what}")

    step("terminals", "registry_ms", f"{line.get('point_of_sale')}: {', '.join(line.get('terminal_ids', []))}")
    step("token", "token_ms", f"client {stack.app.client_id}, secret ********, over mutual TLS")
    step("keys", "keys_ms", "Nexi's JWKS, the first key that is for encryption")
    step("assertion", "assertion_ms", "RS256 with the certificate's key, then RSA-OAEP-256 and A128CBC-HS256:")
    pushed = next((call for call in reversed(stack.nexi.calls) if call.claims), None)
    if pushed and pushed.claims:
        for claim, value in pushed.claims.items():
            print(f"  {'':<26}{claim:<22} {json.dumps(value)}")
    step("PAR", "par_ms", "Authorization: Bearer ********, client_assertion ********")
    if status == 201:
        print(f"\n  201 after {took_ms:.0f} ms, the cold start of the function included")
        print(f"  request_uri  {answer['request_uri']}")
        print(f"  valid until  {answer['expires_at']}, {answer['expires_in']} s from the push", flush=True)
    else:
        print(f"\n  {status} after {took_ms:.0f} ms: {json.dumps(answer, indent=2)}")
        print("  the function's log:\n" + (json.dumps(line, indent=2) if line else journal.everything()), flush=True)


def curl(api_url: str, bearer: str) -> str:
    """A line to paste."""
    return (
        f"curl -sS -X POST {api_url}/v1/enrollments -H 'Content-Type: application/json' "
        f"-H 'Authorization: Bearer {bearer}' -d '{json.dumps({'device_id': DEVICE_ID})}'"
    )


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

    def outcome(self) -> dict[str, Any]:
        """The enrollment's line. The function has answered by now; its log comes by another way, and a moment later."""
        with self._arrived:
            self._arrived.wait_for(lambda: any('"total_ms"' in line for line in self._lines), timeout=2)
            found: dict[str, Any] = next((json.loads(line) for line in self._lines if '"total_ms"' in line), {})
        return found


sys.exit(main(sys.argv[1:]))
