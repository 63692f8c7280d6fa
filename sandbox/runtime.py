"""The inside of an execution environment: loads one handler, then answers invocations until its parent goes away.

Started by `environments`, as a script, with the function's folder, its handler, and two file descriptors.
"""

import importlib
import json
import logging
import os
import sys
import time
import traceback


class Context:
    """What of Lambda's context object the functions may use."""

    def __init__(self, request_id: str, arn: str, deadline: float) -> None:
        self.aws_request_id = request_id
        self.invoked_function_arn = arn
        self.function_name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
        self.function_version = "$LATEST"
        self.memory_limit_in_mb = os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
        self._deadline = deadline

    def get_remaining_time_in_millis(self) -> int:
        """Until Lambda would end the invocation."""
        return max(0, int((self._deadline - time.time()) * 1000))


def main() -> None:
    # Lambda's runtime has a handler on the root logger, too. At DEBUG, each test sees what a library would print.
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    folder, handler_name, reading, writing = sys.argv[1:]
    sys.path.insert(0, folder)
    module, _, name = handler_name.rpartition(".")
    handler = getattr(importlib.import_module(module), name)
    with os.fdopen(int(reading)) as invocations, os.fdopen(int(writing), "w") as replies:
        for line in invocations:
            invocation = json.loads(line)
            event = invocation.pop("event")
            try:
                reply = json.dumps({"result": handler(event, Context(**invocation))})
            except Exception as error:  # noqa: BLE001 - as Lambda does: any error ends the invocation, not us
                traceback.print_exc()
                reply = json.dumps({"error": type(error).__name__, "message": str(error)})
            # `environments` takes this out of the log: it is where the invocation's lines end.
            print(f"\0{invocation['request_id']}", flush=True)
            replies.write(reply + "\n")
            replies.flush()


main()
