"""Many cold execution environments, a process each, that enroll in the same instant. Run by test_single_flight.

Arguments: how many, the AWS URL, and the function's environment as JSON. Prints each one's outcome as JSON lines.
"""

import json
import os
import signal
import sys
import time
import traceback

from softpos import aws, cache
from softpos.deadline import Deadline
from softpos.enrollment import service
from softpos.errors import SoftposError

count, variables = int(sys.argv[1]), json.loads(sys.argv[2])
os.environ.update(variables)
# The sandbox's AWS answers one request at a time, and two hundred processes share a few cores: two hundred at once have
# to queue, the holder of the lease among them. Neither is what is tested here.
aws._READ_SECONDS = aws._HASTY_READ_SECONDS = 60.0
aws._HASTY_CONNECT_SECONDS = 10.0
cache.LEASE_SECONDS = 40.0
signal.alarm(110)

# Imported and built once, as an init phase would, but connected nowhere: each child does that for itself.
service.enrollment()

gate, opener = os.pipe()
results, teller = os.pipe()
for number in range(count):
    if os.fork() == 0:
        os.close(opener)
        os.read(gate, 1)  # until the parent opens the gate, for all at once
        try:
            began = time.time()
            pushed = service.enrollment().enroll("mario.rossi@example.com", f"device {number}", Deadline(60))
            outcome = {"request_uri": pushed.request_uri, "seconds": time.time() - began}
        except SoftposError as error:
            outcome = {"error": error.code, "message": str(error)}
        except BaseException:
            outcome = {"error": traceback.format_exc()}
        os.write(teller, json.dumps(outcome).encode() + b"\n")
        os._exit(0)
os.close(teller)
os.close(opener)
with os.fdopen(results) as lines:
    for line in lines:
        print(line, end="")
