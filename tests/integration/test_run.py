"""`make run` and `make token` as a developer has them: processes, ports, signals, and what is printed."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
from leaks import leaks, of_key
from lines import Lines

from sandbox.aws import client
from tests.ports import free_ports

ROOT = Path(__file__).parent.parent.parent
PORTS = ("API_PORT", "NEXI_PORT", "AWS_PORT", "CONTROL_PORT")
STEPS = ["terminals", "token", "keys", "assertion", "PAR"]
CLAIMS = {
    "appId",
    "pointOfSale",
    "terminal_ids",
    "app_username_merchant",
    "app_deviceid",
    "iss",
    "sub",
    "aud",
    "iat",
    "exp",
    "jti",
}
UP = "Ctrl-C stops everything"
START_SECONDS = 40
STOP_SECONDS = 10


class Run:
    """A process of the sandbox, with its output as it comes."""

    def __init__(self, ports: dict[str, str], *arguments: str, **environment: str) -> None:
        self.ports = ports
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        self.process = subprocess.Popen(
            [sys.executable, *(arguments or ("-m", "sandbox", "run"))],
            cwd=ROOT,
            env={**inherited, **ports, "PYTHONDONTWRITEBYTECODE": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.output = Lines()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.add(line.rstrip("\n"))

    def ended(self, seconds: float = START_SECONDS) -> int:
        """The exit code, once there is one, and no more output."""
        code = self.process.wait(seconds)
        self._reader.join(seconds)
        assert not self._reader.is_alive(), "somebody holds the output open"
        return code

    def line(self, wanted: str) -> str:
        return self.output.wait_for(wanted, START_SECONDS)

    def children(self) -> set[int]:
        """Every process that descends from this one."""
        listed = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True, timeout=10
        )
        pairs = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
        found = {self.process.pid}
        while more := {pid for pid, parent in pairs if parent in found} - found:
            found |= more
        return found - {self.process.pid}

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(STOP_SECONDS)
        self._reader.join(STOP_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Run]]:
    with ExitStack() as running:

        def run(*arguments: str, **environment: str) -> Run:
            started = Run({**own_ports(), **environment}, *arguments)
            running.callback(started.close)
            return started

        yield run


def own_ports() -> dict[str, str]:
    return dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))


def alive(pid: int) -> bool:
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False, timeout=10
    )
    return bool(state.stdout.strip()) and not state.stdout.strip().startswith("Z")


def gone(pids: set[int], seconds: float = STOP_SECONDS) -> bool:
    """Whether all of them have ended within the time."""
    until = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)  # no event tells of somebody else's child
    return True


def assert_ports_free(ports: dict[str, str]) -> None:
    for name in PORTS:
        socket.create_server(("127.0.0.1", int(ports[name]))).close()


def test_up_the_printed_line_and_a_fresh_token_work_and_ctrl_c_leaves_nothing(start: Callable[..., Run]) -> None:
    run = start()
    curl = shlex.split(run.line("curl "))
    run.line(UP)

    assert shutil.which("curl"), "the line is for curl"
    pasted = subprocess.run(curl, capture_output=True, text=True, check=True, timeout=20)
    assert json.loads(pasted.stdout)["request_uri"].startswith("urn:softpos_")
    followed = json.loads(run.line("EnrollmentFunction | ").split(" | ", 1)[1])
    assert followed["message"] == "enrollment pushed"
    run.line("nexi | par")

    printed = subprocess.run(
        [sys.executable, "-m", "sandbox", "token"],
        cwd=ROOT,
        env={**os.environ, **run.ports},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    fresh = printed.stdout.strip()
    assert printed.stderr == ""
    with requests.Session() as session:
        session.trust_env = False
        accepted = session.post(
            f"http://127.0.0.1:{run.ports['API_PORT']}/v1/enrollments",
            json={"device_id": "device"},
            headers={"Authorization": f"Bearer {fresh}"},
            timeout=20,
        )
    assert accepted.status_code == 201

    secrets = client("secretsmanager", f"http://127.0.0.1:{run.ports['AWS_PORT']}")
    stored = [
        json.loads(secrets.get_secret_value(SecretId=each["ARN"])["SecretString"])
        for each in secrets.list_secrets()["SecretList"]
    ]
    hidden = [each["client_secret"] for each in stored if "client_secret" in each]
    hidden += [spelled for each in stored if "private_key" in each for spelled in of_key(each["private_key"])]
    assert len(hidden) > 2

    children = run.children()
    assert children, "the functions run in processes of their own"
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.ended(STOP_SECONDS) == 0
    assert gone(children)
    assert_ports_free(run.ports)
    assert "Traceback" not in run.output.text
    assert leaks(run.output.text, hidden) == []


def test_sigterm_ends_it_as_well(start: Callable[..., Run]) -> None:
    run = start()
    run.line(UP)
    children = run.children()
    run.process.send_signal(signal.SIGTERM)
    assert run.ended(STOP_SECONDS) == 0
    assert gone(children)
    assert_ports_free(run.ports)
    assert "Traceback" not in run.output.text


def test_killed_it_leaves_no_function_behind(start: Callable[..., Run]) -> None:
    run = start()
    run.line(UP)
    children = run.children()
    assert children
    run.process.kill()
    run.process.wait(STOP_SECONDS)
    assert gone(children)
    assert_ports_free(run.ports)


def test_ctrl_c_while_it_starts_ends_it_too(start: Callable[..., Run]) -> None:
    run = start()
    run.line("starting Nexi")
    run.process.send_signal(signal.SIGINT)
    assert run.ended() == 0
    assert_ports_free(run.ports)
    assert "Traceback" not in run.output.text


FORGETFUL = """
import runpy
import sys
import sandbox.local

fill = sandbox.local.LocalStack._fill

def fill_and_forget(stack):
    fill(stack)
    stack.app.operators.clear()

sandbox.local.LocalStack._fill = fill_and_forget
sys.argv = ["sandbox", "run"]
runpy.run_module("sandbox", run_name="__main__")
"""
NO_PORTS = {"API_PORT": "three thousand", "NEXI_PORT": "65536", "AWS_PORT": "0", "CONTROL_PORT": "-1"}


@pytest.fixture(scope="module")
def short() -> Iterator[dict[str, Run]]:
    """Runs that end by themselves, all at the same time."""
    with ExitStack() as running:
        taken = running.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = str(taken.getsockname()[1])
        runs = {
            "once": Run(own_ports(), ONCE="1"),
            "kms": Run(own_ports(), ONCE="1", SIGNER="kms"),
            "no signer": Run(own_ports(), ONCE="1", SIGNER="me"),
            "parameters": Run(own_ports(), ONCE="1", PARAMETERS="SampleAppApi=true Stage=production"),
            "fails": Run(own_ports(), "-c", FORGETFUL, ONCE="1"),
            "token": Run(own_ports(), "-m", "sandbox", "token"),
            "walk": Run(own_ports(), "-m", "sandbox", "walk"),
            **{f"taken {name}": Run({**own_ports(), name: port}, ONCE="1") for name in PORTS},
            **{f"no port {name}": Run({**own_ports(), name: value}, ONCE="1") for name, value in NO_PORTS.items()},
        }
        for run in runs.values():
            running.callback(run.close)
        yield runs


def test_once_enrolls_prints_every_step_and_no_secret_and_ends_well(short: dict[str, Run]) -> None:
    run = short["once"]

    assert run.ended() == 0
    text = run.output.text
    for step in STEPS:
        assert re.search(rf"^  {step} +[0-9.]+ ms ", text, re.MULTILINE), text
    claims = dict(re.findall(r"^ {20,}(\w+) +(\S.*)$", text, re.MULTILINE))
    assert set(claims) == CLAIMS
    assert json.loads(claims["aud"]) == f"https://127.0.0.1:{run.ports['NEXI_PORT']}"
    assert re.search(r"request_uri +urn:softpos_[0-9a-f-]{36}", text)
    pool, configuration, enrollment = (
        text.index(f"{what} as ") for what in ("GET /v1/terminals", "GET /v1/app-configuration", "POST /v1/enrollments")
    )
    assert pool < configuration < enrollment
    assert re.search(r"00012345: 30000001, 40000001 +mario\.rossi@example\.com", text)
    assert len(re.findall(r"^  \d{8}: .* free$", text, re.MULTILINE)) == 3
    assert re.search(r'redirect_uri +"https://merchant\.example/softpos"', text)
    assert re.search(r"\b201 after \d+ ms", text)
    assert not re.search(r"eyJ|PRIVATE KEY|[A-Za-z0-9_-]{40,}", text.replace("urn:softpos_", ""))
    assert "Traceback" not in text
    assert_ports_free(run.ports)


@pytest.mark.parametrize("variable", PORTS)
def test_a_port_in_use_gets_a_sentence_with_its_variable_and_number(variable: str, short: dict[str, Run]) -> None:
    run = short[f"taken {variable}"]
    assert run.ended() == 1
    sentence = run.line("softpos: ")
    assert sentence.startswith(f"softpos: {variable}: port {run.ports[variable]} ")
    assert f"make run {variable}=" in sentence
    assert "Traceback" not in run.output.text


@pytest.mark.parametrize("variable", PORTS)
def test_what_is_no_port_gets_a_sentence(variable: str, short: dict[str, Run]) -> None:
    run = short[f"no port {variable}"]
    assert run.ended() == 1
    assert run.output.text == f"softpos: {variable}: {NO_PORTS[variable]!r} is not a port from 1 to 65535"


def test_with_a_signer_in_kms_it_says_so_and_ends_well(short: dict[str, Run]) -> None:
    run = short["kms"]
    assert run.ended() == 0
    assert "RS256 with a key in KMS" in run.output.text
    assert_ports_free(run.ports)


def test_what_is_no_signer_gets_a_sentence(short: dict[str, Run]) -> None:
    run = short["no signer"]
    assert run.ended() == 1
    assert "SIGNER: 'me' is neither certificate nor kms" in run.line("softpos: ")
    assert "Traceback" not in run.output.text


def test_a_parameter_that_the_template_refuses_gets_a_sentence(short: dict[str, Run]) -> None:
    run = short["parameters"]
    assert run.ended() == 1
    assert "SampleAppApi is for staging" in run.line("softpos: ")
    assert "Traceback" not in run.output.text
    assert_ports_free(run.ports)


def test_a_token_from_nowhere_gets_a_sentence(short: dict[str, Run]) -> None:
    run = short["token"]
    assert run.ended() == 1
    assert f"AWS_PORT {run.ports['AWS_PORT']}" in run.line("softpos: ")
    assert "Traceback" not in run.output.text


def test_an_unknown_command_gets_the_usage(short: dict[str, Run]) -> None:
    run = short["walk"]
    assert run.ended() == 2
    assert "usage: " in run.output.text


def test_an_enrollment_that_fails_ends_the_run_badly_and_says_why(short: dict[str, Run]) -> None:
    run = short["fails"]
    assert run.ended() == 1
    text = run.output.text
    assert re.search(r"\b502 after \d+ ms", text)
    assert '"nexi_rejected"' in text
    assert '"remedy"' in text
    assert "Traceback" not in text
    assert_ports_free(run.ports)
