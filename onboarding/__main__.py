"""`softpos`, and `python -m onboarding`."""

import os
import sys
from typing import Any

import click

from onboarding import console
from onboarding.application import application
from onboarding.certificate import certificate
from onboarding.doctor import doctor
from onboarding.options import example
from onboarding.terminals import terminals
from softpos.errors import SoftposError


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=example(
        "softpos certificate request --stage staging --name NOMEAPP",
        "softpos doctor --stage production",
        "",
        'eval "$(_SOFTPOS_COMPLETE=bash_source softpos)"      completion; zsh_source, fish_source',
    ),
)
def softpos() -> None:
    """From a certificate signing request to the first request_uri, and what to look at after.

    Runs where `aws` runs: the same credentials, profiles and regions.
    """


softpos.add_command(application)
softpos.add_command(certificate)
softpos.add_command(doctor)
softpos.add_command(terminals)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command, and turn what goes wrong into words. The exit status is 0 only if all went well."""
    try:
        return softpos.main(arguments, prog_name="softpos", standalone_mode=True)
    except SoftposError as error:
        console.fail(error)
        sys.exit(1)
    except BrokenPipeError:
        # Whoever read has read enough. Python would complain of it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
