"""What `make build` makes for Lambda: whose machine its wheels are for, what is inside, and how large it is."""

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_overloads

import pytest
from builds import ROOT, Build, files, size, zipped_size
from packaging.tags import Tag, cpython_tags, parse_tag
from packaging.utils import canonicalize_name

from softpos import aws

MIB = 1024 * 1024
KIB = 1024

BUDGETS = {
    "AppConfigurationFunction": (4 * KIB, 2 * KIB),
    "CertificateWatchFunction": (4 * KIB, 2 * KIB),
    "EncryptionKeysFunction": (4 * KIB, 2 * KIB),
    "EnrollmentFunction": (4 * KIB, 2 * KIB),
    "SampleAppFunction": (8 * KIB, 4 * KIB),
    "TerminalsFunction": (12 * KIB, 4 * KIB),
    "TokenRefreshFunction": (4 * KIB, 2 * KIB),
    "SoftposLayer": (512 * KIB, 256 * KIB),
    "DependenciesLayer": (36 * MIB, 13 * MIB),
}
"""Bytes that each may have, unzipped and zipped, bytecode included. Lambda fetches and unpacks them in a cold start."""

LAMBDAS_LIMIT = 250 * MIB
"""A function with all its layers, unzipped."""

SERVICES = {get_args(each.__annotations__["service"])[0] for each in get_overloads(aws.client)}
"""Of AWS, those that softpos has clients for."""

GLIBC = (2, 34)
"""Amazon Linux 2023's, under python3.13."""

AARCH64 = 183
"""The machine of an ELF header."""


@pytest.mark.parametrize("name", BUDGETS)
def test_it_stays_within_its_budget(for_lambda: Build, tmp_path: Path, name: str) -> None:
    artefact = for_lambda.artefacts[name]
    unzipped, zipped = BUDGETS[name]
    assert 0 < size(artefact) <= unzipped
    assert zipped_size(artefact, tmp_path / "artefact.zip") <= zipped


def test_all_that_is_built_has_a_budget(for_lambda: Build) -> None:
    assert set(for_lambda.artefacts) == set(BUDGETS)


def test_a_function_with_its_layers_is_far_from_lambdas_limit(for_lambda: Build) -> None:
    layers = sum(size(each) for each in for_lambda.layers.values())
    assert max(size(each) for each in for_lambda.functions.values()) + layers < LAMBDAS_LIMIT / 6


def test_a_function_is_its_own_source_and_nothing_else(for_lambda: Build) -> None:
    sources = {path.parent.name: path.read_text() for path in (ROOT / "functions").glob("*/app.py")}
    built = {name: {each.name: each.read_text() for each in files(path)} for name, path in for_lambda.functions.items()}
    assert sorted(sources.values()) == sorted(each.pop("app.py") for each in built.values())
    assert not any(built.values())


def test_softpos_layer_is_its_own_source_and_nothing_else(for_lambda: Build) -> None:
    source = ROOT / "layers" / "softpos" / "softpos"
    wanted = {f"python/softpos/{each.relative_to(source)}" for each in files(source) if each.suffix != ".pyc"}
    assert {each for each in names(for_lambda.layers["SoftposLayer"]) if not each.endswith(".pyc")} == wanted


def test_botocore_describes_the_services_that_there_are_clients_for_and_no_other(for_lambda: Build) -> None:
    data = for_lambda.layers["DependenciesLayer"] / "python" / "botocore" / "data"
    services = {each.name for each in data.iterdir() if each.is_dir()}
    assert services == SERVICES


def test_what_botocore_no_longer_knows_changes_no_endpoint(for_lambda: Build) -> None:
    """In today's partitions, and in a region that none of them knows yet."""
    regions = ["eu-south-1", "us-east-1", "cn-north-1", "us-gov-west-1", "eu-isoe-west-1", "eusc-de-east-1", "xx-new-1"]
    program = f"""
import itertools, json, sys
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from botocore.session import get_session
session, found = get_session(), []
kinds = [{{}}, {{"use_fips_endpoint": True}}, {{"use_dualstack_endpoint": True}}]
for service, region, kind in itertools.product({sorted(SERVICES)}, {regions}, kinds):
    try:
        client = session.create_client(service, region, config=Config(**kind))
        found.append([client.meta.endpoint_url, client.meta.partition, client._request_signer.region_name])
    except BotoCoreError as error:
        found.append(str(error))
print(json.dumps(found))
"""
    cut, whole = (
        # Without bytecode: the artefact stays as it was built.
        subprocess.run([sys.executable, "-B", "-c", program], env=path, capture_output=True, text=True, check=True)
        for path in ({"PYTHONPATH": str(for_lambda.layers["DependenciesLayer"] / "python")}, {})
    )
    assert cut.stdout == whole.stdout
    assert "https://dynamodb.eu-south-1.amazonaws.com" in cut.stdout


def test_nothing_of_tests_sandbox_or_onboarding_is_inside(for_lambda: Build) -> None:
    inside = {each for path in for_lambda.artefacts.values() for each in names(path)}
    top_level = {each.removeprefix("python/").split("/")[0] for each in inside}
    assert not top_level & {path.name for path in ROOT.iterdir()}
    assert not top_level & {"bin", "test", "conftest.py"}
    assert [each for each in inside if re.search(r"(^|/)\.", each)] == []


@pytest.mark.parametrize("layer", ["SoftposLayer", "DependenciesLayer"])
def test_a_layer_has_lambdas_bytecode_for_each_module_or_none(for_lambda: Build, layer: str) -> None:
    """None, where there was no python3.13 to make it. Half of a cold start is making it again."""
    check_bytecode(for_lambda.layers[layer], "cpython-313", may_be_none=True)


@pytest.mark.parametrize("layer", ["SoftposLayer", "DependenciesLayer"])
def test_where_there_is_that_python_a_layer_has_bytecode(for_this_machine: Build, layer: str) -> None:
    assert sys.implementation.cache_tag is not None
    check_bytecode(for_this_machine.layers[layer], sys.implementation.cache_tag)


def check_bytecode(layer: Path, tag: str, *, may_be_none: bool = False) -> None:
    found = {each for each in names(layer) if each.endswith(".pyc")}
    wanted = {
        re.sub(r"([^/]+)\.py$", rf"__pycache__/\1.{tag}.pyc", each) for each in names(layer) if each.endswith(".py")
    }
    assert found == wanted or (may_be_none and not found)
    # Of the flags (PEP 552), the one that says that it goes by a hash, and not the one that says to check it.
    assert {int.from_bytes(head(layer / each, 8)[4:], "little") for each in found} <= {0b01}


def test_the_dependencies_are_the_locked_ones_and_no_other(for_lambda: Build) -> None:
    locked = re.findall(
        r"^([\w.-]+)==([\w.]+)", (ROOT / "layers/dependencies/requirements.txt").read_text(), re.MULTILINE
    )
    built = [each.name.removesuffix(".dist-info").split("-") for each in dist_infos(for_lambda)]
    assert {(canonicalize_name(name), version) for name, version in built} == set(locked)


def test_every_wheel_is_for_lambda(for_lambda: Build) -> None:
    """By the tags it was published with."""
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in range(GLIBC[1], 16, -1)]
    supported = {*cpython_tags((3, 13), abis=["cp313"], platforms=platforms), *parse_tag("py2.py3-none-any")}
    foreign = {each.name: tags(each) for each in dist_infos(for_lambda) if not tags(each) & supported}
    assert foreign == {}


def test_every_compiled_module_is_for_lambda(for_lambda: Build) -> None:
    """By what is in it."""
    modules = [each for path in for_lambda.artefacts.values() for each in files(path) if head(each, 4) == b"\x7fELF"]
    assert {re.sub(r"^[^.]+", "", each.name) for each in modules} == {
        ".abi3.so",
        ".cpython-313-aarch64-linux-gnu.so",
    }
    assert {int.from_bytes(head(each, 20)[18:], "little") for each in modules} == {AARCH64}
    assert max(needs_glibc(each) for each in modules) <= GLIBC


def test_no_compiled_module_hides_under_another_name(for_lambda: Build) -> None:
    libraries = [each for path in for_lambda.artefacts.values() for each in files(path) if ".so" in each.suffixes]
    assert libraries
    assert {head(each, 4) for each in libraries} == {b"\x7fELF"}


def names(folder: Path) -> set[str]:
    return {str(each.relative_to(folder)) for each in files(folder)}


def head(file: Path, count: int) -> bytes:
    with file.open("rb") as opened:
        return opened.read(count)


def dist_infos(build: Build) -> list[Path]:
    return sorted(build.layers["DependenciesLayer"].glob("python/*.dist-info"))


def tags(dist_info: Path) -> set[Tag]:
    stated = re.findall(r"^Tag: (.+)$", (dist_info / "WHEEL").read_text(), re.MULTILINE)
    return {tag for each in stated for tag in parse_tag(each.strip())}


def needs_glibc(module: Path) -> tuple[int, int]:
    """The newest GLIBC whose symbols it asks for."""
    found = re.findall(rb"GLIBC_(\d+)\.(\d+)", module.read_bytes())
    return max((int(major), int(minor)) for major, minor in found)
