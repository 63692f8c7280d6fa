"""What `sam build` makes, in a folder of its own and not in the checkout's."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from samtranslator.yaml_helper import yaml_parse

ROOT = Path(__file__).parents[2]
RUNTIME = ("awslambdaric", "simplejson", "snapshot-restore-py")
"""What of Python packages Lambda's runtime brings, but for boto3, which the layer does."""


@dataclass(frozen=True)
class Build:
    """The folders that would be zipped and deployed, by logical id."""

    functions: dict[str, Path]
    layers: dict[str, Path]

    @property
    def artefacts(self) -> dict[str, Path]:
        return {**self.functions, **self.layers}


def build(folder: Path, **variables: str) -> Build:
    """`sam build`, with these variables for the Makefiles; without any, what `make build` makes."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "LAMBDA_"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # The folder's parent gets a file from sam, too.
    run = subprocess.run(
        [Path(sys.executable).with_name("sam"), "build", "--build-dir", folder / "build"],
        cwd=ROOT,
        env={**inherited, "PATH": path, "SAM_CLI_TELEMETRY": "0", **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    resources = yaml_parse((folder / "build" / "template.yaml").read_text())["Resources"]

    def built(kind: str, member: str) -> dict[str, Path]:
        return {
            name: folder / "build" / each["Properties"][member]
            for name, each in resources.items()
            if each["Type"] == kind
        }

    return Build(
        functions=built("AWS::Serverless::Function", "CodeUri"),
        layers=built("AWS::Serverless::LayerVersion", "ContentUri"),
    )


def unpacked(layers: Iterable[Path], opt: Path) -> Path:
    """The layers' files, one upon the other, as Lambda has them under /opt. None may be in two of them."""
    for layer in layers:
        shutil.copytree(layer, opt, copy_function=os.link, dirs_exist_ok=True)
    return opt


def runtime(folder: Path) -> Path:
    """A folder with what Lambda's runtime has on the path, and nothing else of this environment."""
    folder.mkdir()
    for name in RUNTIME:
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}:
            (folder / top).symlink_to(Path(str(distribution.locate_file(top))))
    return folder


def size(folder: Path) -> int:
    """In bytes, unzipped."""
    return sum(file.stat().st_size for file in files(folder))


def zipped_size(folder: Path, archive: Path) -> int:
    """In bytes, as `sam deploy` zips it."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for each in files(folder):
            file.write(each, each.relative_to(folder))
    return archive.stat().st_size


def files(folder: Path) -> list[Path]:
    return sorted(each for each in folder.rglob("*") if each.is_file())


def event(name: str) -> dict[str, Any]:
    """One of events/."""
    loaded: dict[str, Any] = json.loads((ROOT / "events" / f"{name}.json").read_text())
    return loaded
