"""A built function, run as Lambda runs it: AWS's runtime interface emulator, AWS's runtime client, and what ships."""

import contextlib
import importlib.util
import json
import os
import platform
import queue
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.template import Function
from tests.ports import free_ports

START_SECONDS = 10
ANSWER_SECONDS = 60
LOG_SECONDS = 5


@dataclass(frozen=True)
class Invocation:
    """What came out of one invocation: what Lambda answers, and what was logged from its START to its END."""

    text: str
    log: str

    @property
    def result(self) -> Any:
        return json.loads(self.text)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What softpos and the runtime said: neither metrics, nor where botocore found what."""
        logged = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in logged if not {"_aws", "logger"} & set(line)]


class Emulator:
    """A context manager: one execution environment of one function. It starts with the first invocation."""

    def __init__(self, function: Function, path: list[Path], environment: dict[str, str]) -> None:
        """`function.folder` is the built one; `path` is what else the interpreter may import from."""
        self.cold_starts = 0
        """How many execution environments there have been."""
        self._function = function
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        for _ in range(3):
            if self._start(path, environment):
                return
        raise AssertionError("the emulator does not start")

    def __enter__(self) -> "Emulator":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self, path: list[Path], environment: dict[str, str]) -> bool:
        """Whether it is up: somebody may have taken its ports meanwhile."""
        invocations, api = (f"127.0.0.1:{port}" for port in free_ports(2))
        self._url = f"http://{invocations}/2015-03-31/functions/function/invocations"
        self._process = subprocess.Popen(
            [
                *(emulator(), "--runtime-interface-emulator-address", invocations, "--runtime-api-address", api),
                # -S: not one of this environment's packages. The function's folder comes first, as -m has it.
                *(sys.executable, "-S", "-m", "awslambdaric", self._function.handler),
            ],
            cwd=self._function.folder,
            env={**lambdas(self._function, path), **self._function.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        host, port = invocations.split(":")
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
                return True
            time.sleep(0.02)
        self.stop()
        return False

    def invoke(self, event: Any) -> Invocation:
        """One at a time. Fails when the function's process ends by itself: then nothing is reported."""
        request = urllib.request.Request(self._url, json.dumps(event).encode())
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(request, timeout=ANSWER_SECONDS) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            text = error.read().decode()
        own: list[str] = []
        # The answer and the log come on two ways.
        while not (line := self._lines.get(timeout=LOG_SECONDS)).startswith("REPORT RequestId"):
            if not re.search(r"\(rapid\)|^(START|END) RequestId", line):
                own.append(line)
        return Invocation(text, "\n".join(own))

    def stop(self) -> None:
        """End it, and the function's process with it."""
        self._process.terminate()
        self._process.wait(START_SECONDS)
        self._reader.join(START_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            text = line.decode("utf-8", "replace").rstrip("\n")
            self.cold_starts += "INIT START" in text
            self._lines.put(text)


def lambdas(function: Function, path: list[Path]) -> dict[str, str]:
    """The variables that Lambda itself sets. The first of `path` is what is under /opt/python, the last the runtime."""
    name = function.deployed_name
    return {
        "PATH": os.defpath,
        "LANG": "en_US.UTF-8",
        "TZ": ":UTC",
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "LAMBDA_TASK_ROOT": str(function.folder),
        "LAMBDA_RUNTIME_DIR": str(path[-1]),
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.runtime}",
        "AWS_LAMBDA_FUNCTION_NAME": name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory),
        # The emulator's own: Lambda tells nobody.
        "AWS_LAMBDA_FUNCTION_TIMEOUT": str(function.timeout),
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": "2026/03/12/[$LATEST]0c1d2e3f",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        # What template.yaml's LoggingConfig comes to.
        "AWS_LAMBDA_LOG_FORMAT": "JSON",
        "AWS_LAMBDA_LOG_LEVEL": "INFO",
        "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
        "AWS_XRAY_DAEMON_ADDRESS": "169.254.79.129:2000",
    }


def emulator() -> Path:
    """AWS's emulator for this machine: it comes inside aws-sam-cli."""
    found = importlib.util.find_spec("samcli")
    assert found is not None
    assert found.origin is not None
    kind = "arm64" if platform.machine() in ("aarch64", "arm64") else "x86_64"
    return Path(found.origin).parent / "local" / "rapid" / f"aws-lambda-rie-{kind}"
