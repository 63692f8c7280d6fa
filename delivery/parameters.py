"""What a stage is deployed with: samconfig.toml's parameters, the environment's own, and the release that all make.

`sam deploy --parameter-overrides` replaces those of samconfig.toml, and does not add to them.
"""

import hashlib
import os
import shlex
import sys
import tomllib
from pathlib import Path

SAMCONFIG = Path(__file__).parent.parent / "samconfig.toml"


def parameters(stage: str, commit: str, own: str = "") -> str:
    """`own` is the environment's, of which each comes before samconfig.toml's of the same name."""
    config = tomllib.loads(SAMCONFIG.read_text("utf-8"))
    configured = config[stage]["deploy"]["parameters"]["parameter_overrides"]
    if isinstance(configured, str):
        configured = shlex.split(configured)
    values = dict(each.split("=", 1) for each in [*configured, *shlex.split(own)])
    # Of the commit and of all parameters: the same again deploys nothing, and another value of any makes new versions.
    told = "\n".join([commit, *(f"{name}={value}" for name, value in sorted(values.items()))])
    values["Release"] = hashlib.sha256(told.encode()).hexdigest()[:40]
    return " ".join(f"{name}={_quoted(value)}" for name, value in values.items())


def _quoted(value: str) -> str:
    """As sam takes it apart."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


if __name__ == "__main__":
    print(parameters(sys.argv[1], sys.argv[2], os.environ.get("PARAMETERS", "")))  # noqa: T201 - for the shell
