"""What botocore knows of AWS, cut down to the services that softpos.aws has clients for.

It describes four hundred, which is half of the layer, and goes through them all for the first client.
"""

import json
import shutil
import sys
from pathlib import Path

SERVICES = {"cognito-idp", "dynamodb", "kms", "secretsmanager"}


def trim(data: Path) -> None:
    """`data` is botocore's folder of that name."""
    for each in data.iterdir():
        if each.is_dir() and each.name not in SERVICES:
            shutil.rmtree(each)
    file = data / "endpoints.json"
    endpoints = json.loads(file.read_text())
    for partition in endpoints["partitions"]:
        partition["services"] = {name: each for name, each in partition["services"].items() if name in SERVICES}
    # Not into the file as it is: an installer may have linked it to its cache.
    file.unlink()
    file.write_text(json.dumps(endpoints, separators=(",", ":")))


if __name__ == "__main__":
    trim(Path(sys.argv[1]))
