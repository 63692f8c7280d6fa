"""The `softpos` command as a whole: its help, its completion, what it is without a terminal, and how it fails."""

import json
import os
import pty
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from onboarding import console
from onboarding.__main__ import main, softpos
from onboarding.deployment import CommandError, Deployment

ROOT = Path(__file__).parents[2]
ANSI = "\x1b["


def commands(group: click.Group = softpos, *path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by what is typed."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands())
SHOWING = ("certificate show", "application show", "terminals list", "doctor")


def test_there_is_what_the_documents_name() -> None:
    assert set(COMMANDS) == {
        *(f"certificate {each}" for each in ("request", "import", "activate", "rollback", "show")),
        *(f"application {each}" for each in ("set", "show")),
        *(f"terminals {each}" for each in ("import", "list", "assign", "release", "move")),
        "doctor",
    }


@pytest.mark.parametrize("typed", COMMANDS)
def test_each_says_what_it_does_with_an_example(typed: str) -> None:
    command = COMMANDS[typed]
    context = click.Context(command, info_name=f"softpos {typed}")
    text = command.get_help(context)
    assert command.help
    assert "For instance:" in text
    assert f"softpos {typed}" in text.partition("For instance:")[2]


@pytest.mark.parametrize("typed", COMMANDS)
def test_each_option_says_what_it_is(typed: str) -> None:
    for parameter in COMMANDS[typed].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


@pytest.mark.parametrize("typed", COMMANDS)
def test_each_example_is_one_that_can_be_typed(typed: str) -> None:
    """Its options exist, and its arguments are enough."""
    for line in (COMMANDS[typed].epilog or "").splitlines():
        found = re.search(rf"softpos {typed}( [^<|]*)?", line)
        if found:
            arguments = re.findall(r"'[^']*'|\S+", (found[1] or "").replace(" ", " "))
            context = COMMANDS[typed].make_context(
                typed, [each.strip("'") for each in arguments], resilient_parsing=True
            )
            assert context.command is COMMANDS[typed]
            COMMANDS[typed].make_parser(context).parse_args([each.strip("'") for each in arguments])


@pytest.mark.parametrize("typed", COMMANDS)
def test_each_wants_a_stage_and_takes_it_from_the_environment(typed: str) -> None:
    (stage,) = (each for each in COMMANDS[typed].params if each.name == "stage")
    assert (stage.required, stage.envvar) == (True, "SOFTPOS_STAGE")
    assert isinstance(stage.type, click.Choice)
    assert list(stage.type.choices) == ["staging", "production", "local"]


@pytest.mark.parametrize("typed", SHOWING)
def test_what_shows_something_has_json(typed: str) -> None:
    assert "json" in {each.name for each in COMMANDS[typed].params}


@pytest.mark.parametrize("typed", COMMANDS)
def test_no_secret_is_an_argument_or_an_option(typed: str) -> None:
    # A flag that says to read none is none.
    names = {each.name or "" for each in COMMANDS[typed].params if not getattr(each, "is_flag", False)}
    assert not [each for each in names if "secret" in each or "password" in each or "token" in each]


def test_it_completes() -> None:
    environment = {
        **os.environ,
        "_SOFTPOS_COMPLETE": "bash_complete",
        "COMP_WORDS": "softpos certificate re",
        "COMP_CWORD": "2",
    }
    run = subprocess.run(
        [sys.executable, "-c", "from onboarding.__main__ import main; main()"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["plain,request"]


def test_the_project_installs_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["softpos"].partition(":")
    assert (module, function) == (main.__module__, main.__name__)


def test_a_failure_is_a_sentence_a_remedy_and_a_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_deployment: Deployment, _name: str) -> str:
        raise CommandError("this was found", "do that")

    monkeypatch.setattr(Deployment, "output", broken)
    monkeypatch.setattr(Deployment, "client", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        main(["certificate", "show", "--stage", "local"])
    assert ended.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "softpos: this was found\n         do that\n"


@pytest.mark.parametrize(
    "arguments",
    [["certificate", "show"], ["certificate", "show", "--stage", "elsewhere"], ["no-such-command"]],
    ids=["no-stage", "unknown-stage", "unknown-command"],
)
def test_what_cannot_be_understood_is_status_two(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOFTPOS_STAGE", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


class TestTheConsole:
    ROWS = (["00012345", "mario.rossi@example.com"], ["x" * 200, ""])

    def test_in_a_pipe_it_is_plain_and_cuts_nothing_off(self, capsys: pytest.CaptureFixture[str]) -> None:
        console.table(["point of sale", "operator"], self.ROWS)
        console.say("[bold]not markup[/bold] :secret:")
        out = capsys.readouterr().out
        assert ANSI not in out
        assert "x" * 200 in out
        assert "[bold]not markup[/bold] :secret:" in out
        assert not [line for line in out.splitlines() if line != line.rstrip()]

    def test_in_a_pipe_colours_cannot_be_forced(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        console.fail(CommandError("found", "do"))
        assert ANSI not in capsys.readouterr().err

    def test_on_a_terminal_it_has_colours(self) -> None:
        program = (
            "from onboarding import console; from onboarding.deployment import CommandError as E; console.fail(E('x'))"
        )
        read, write = pty.openpty()
        environment = {**os.environ, "TERM": "xterm-256color"}
        environment.pop("NO_COLOR", None)
        subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, stderr=write, check=True)
        os.close(write)
        assert ANSI in os.read(read, 4096).decode()
        os.close(read)

    def test_what_a_terminal_would_obey_is_not_passed_on(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A certificate's subject comes out of a mail."""
        hostile = "CN=x\x1b]0;title\x1b\\\x1b[2J\x07"
        console.say(hostile)
        console.pairs([("subject", hostile)])
        console.table(["subject"], [[hostile]])
        console.remark(hostile)
        console.warn(hostile)
        console.fail(CommandError(hostile, hostile))
        printed = capsys.readouterr()
        for text in (printed.out, printed.err):
            assert "CN=x\N{REPLACEMENT CHARACTER}]0;title" in text
            assert not set(text) & {"\x1b", "\x07"}

    def test_json_is_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        console.say_json({"è": [1, None]})
        out = capsys.readouterr().out
        assert json.loads(out) == {"è": [1, None]}
        assert "è" in out
