"""What every command has in common: where to look, how to answer, and an example in its help."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from onboarding.deployment import STAGES, Deployment

Command = Callable[..., Any]


def example(*lines: str) -> str:
    """The last paragraph of a command's help."""
    return "\b\nFor instance:\n" + "\n".join(f"  {line}" for line in lines)


def placed(command: Command) -> Command:
    """Options that say which stack in which account; the command gets it as `deployment`."""

    @click.option(
        "--stage",
        type=click.Choice(STAGES),
        envvar="SOFTPOS_STAGE",
        required=True,
        help="Nexi's staging or production, or what `make run` has started.  [$SOFTPOS_STAGE]",
    )
    @click.option("--stack", envvar="SOFTPOS_STACK", help="The stack's name, when it is not softpos-STAGE.")
    @click.option("--profile", help="The AWS profile, as for the aws command.")
    @click.option("--region", help="The AWS region, as for the aws command.")
    @functools.wraps(command)
    def with_deployment(*args: Any, stage: Any, stack: Any, profile: Any, region: Any, **options: Any) -> Any:
        return command(*args, deployment=Deployment(stage, stack, profile, region), **options)

    return with_deployment


def with_ca_bundle(command: Command) -> Command:
    """Option for what this machine is to trust for Nexi; the command gets it as `ca_bundle`."""
    return click.option(
        "--ca-bundle",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Authorities to trust for Nexi, PEM, when the functions' own file (NexiCaBundle) is not on this machine.",
    )(command)


def with_client_certificate(command: Command) -> Command:
    """Option for an API with mutual TLS; the command gets it as `client_certificate`."""
    return click.option(
        "--client-certificate",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        envvar="SOFTPOS_CLIENT_CERTIFICATE",
        help="PEM, certificate and key, for an API that asks for one (TruststoreUri).  [$SOFTPOS_CLIENT_CERTIFICATE]",
    )(command)


def as_json(command: Command) -> Command:
    """Option to answer as JSON; the command gets it as `json`."""
    return click.option("--json", is_flag=True, help="Answer as JSON, for machines.")(command)
