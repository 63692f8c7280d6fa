"""Execution environments: a process each, one invocation at a time, reused while warm, as Lambda does it."""

import json
import os
import re
import select
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandbox.template import Function

LAYER = Path(__file__).parent.parent / "layers" / "softpos"
_RUNTIME = Path(__file__).parent / "runtime.py"
_END = re.compile("\0([0-9a-f-]{36})$")


class FunctionError(Exception):
    """When a handler raised, ran out of time, or its process died; `kind` is what Lambda calls errorType."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Environments:
    """The execution environments of one function: as many as are needed at once, started when needed."""

    def __init__(self, function: Function, environment: dict[str, str], log: Callable[[str, str], None]) -> None:
        self._function = function
        self._environment = environment
        self._log = log
        self._idle: list[_Environment] = []
        self._all: list[_Environment] = []
        self._lock = threading.Lock()

    def invoke(self, event: Any, lines: list[str] | None = None) -> Any:
        """What the handler returns. What it logs is added to `lines`, if given. Raises FunctionError."""
        with self._lock:
            environment = self._idle.pop() if self._idle else None
        if environment is None:
            environment = _Environment(self._function, self._environment, self._log)
            with self._lock:
                self._all.append(environment)
        try:
            result = environment.invoke(event, lines)
        except FunctionError:
            if environment.alive:
                self._give_back(environment)
            raise
        self._give_back(environment)
        return result

    def stop(self) -> None:
        """End every process."""
        with self._lock:
            everyone, self._all, self._idle = self._all, [], []
        for environment in everyone:
            environment.stop()

    def _give_back(self, environment: "_Environment") -> None:
        with self._lock:
            if environment in self._all:
                self._idle.append(environment)


class _Environment:
    def __init__(self, function: Function, environment: dict[str, str], log: Callable[[str, str], None]) -> None:
        self._function = function
        invocations, self._invocations = os.pipe()
        self._replies, replies = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-u", _RUNTIME, function.folder, function.handler, str(invocations), str(replies)],
            # Exactly this: what the developer's shell exports must not be what makes it work.
            env={
                "PATH": os.defpath,
                "LANG": "C.UTF-8",
                "TZ": ":UTC",
                "PYTHONPATH": str(LAYER),
                "PYTHONDONTWRITEBYTECODE": "1",
                "AWS_LAMBDA_FUNCTION_NAME": function.deployed_name,
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory),
                "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
                "LAMBDA_TASK_ROOT": str(function.folder),
                **function.environment,
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(invocations, replies),
            # Ctrl-C is for the parent; when that ends, the pipe does, and so does the runtime.
            start_new_session=True,
        )
        os.close(invocations)
        os.close(replies)
        self._pipes = [self._invocations, self._replies]
        self._buffer = b""
        self._logged: tuple[str | None, list[str]] = (None, [])
        """The last invocation that has ended, and its lines; "" once the process has, with what came after."""
        self._has_logged = threading.Condition()
        self._reader = threading.Thread(target=self._follow, args=(log,), daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def invoke(self, event: Any, lines: list[str] | None) -> Any:
        request_id = str(uuid.uuid4())
        try:
            return self._invoke(event, request_id)
        finally:
            if lines is not None:
                lines += self._lines_of(request_id)

    def _invoke(self, event: Any, request_id: str) -> Any:
        deadline = time.time() + self._function.timeout
        invocation = {"event": event, "request_id": request_id, "arn": self._function.arn, "deadline": deadline}
        try:
            self._write(json.dumps(invocation))
            reply = json.loads(self._read_line(deadline))
        except TimeoutError:
            self.stop()
            message = f"Task timed out after {self._function.timeout:.2f} seconds"
            raise FunctionError("Sandbox.Timedout", message) from None
        except (OSError, ValueError) as error:
            self.stop()
            raise FunctionError("Runtime.ExitError", "the runtime exited") from error
        if "error" in reply:
            raise FunctionError(reply["error"], reply["message"])
        return reply["result"]

    def _lines_of(self, request_id: str) -> list[str]:
        # The reply and the log come through two pipes.
        with self._has_logged:
            ended = self._has_logged.wait_for(lambda: self._logged[0] in (request_id, ""), timeout=2)
            return self._logged[1] if ended else []

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        while self._pipes:
            os.close(self._pipes.pop())

    def _write(self, line: str) -> None:
        view = memoryview(line.encode() + b"\n")
        while view:
            view = view[os.write(self._invocations, view) :]

    def _read_line(self, deadline: float) -> bytes:
        while b"\n" not in self._buffer:
            # Not select(), which knows no descriptor beyond 1023.
            ready = select.poll()
            ready.register(self._replies, select.POLLIN)
            if not ready.poll(max(0.0, deadline - time.time()) * 1000):
                raise TimeoutError
            chunk = os.read(self._replies, 65536)
            if not chunk:
                raise BrokenPipeError
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _follow(self, log: Callable[[str, str], None]) -> None:
        assert self._process.stdout is not None
        logged: list[str] = []
        with self._process.stdout as lines:
            for line in lines:
                text = line.decode("utf-8", "replace").rstrip("\n")
                end = _END.search(text)
                text = text[: end.start()] if end else text
                if text or not end:
                    log(self._function.name, text)
                    logged.append(text)
                if end:
                    self._end(end[1], logged)
                    logged = []
        self._end("", logged)

    def _end(self, request_id: str, logged: list[str]) -> None:
        with self._has_logged:
            self._logged = (request_id, logged)
            self._has_logged.notify_all()
