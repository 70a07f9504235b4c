"""What every command has in common."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from app.cli import COMMANDS, main

#: Those that work on no pipeline of the user's, and why.
WITHOUT_PIPELINE = {
    "demo": "runs the flights",
    "bench": "runs pipelines of its own",
    "drift": "runs streams of its own",
    "query": "reads tables that hold all pipelines",
}


def all_commands() -> Iterator[tuple[str, click.Command]]:
    """Every command and subcommand, by the words that call it."""
    context = click.Context(main)
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {sub}", each) for sub, each in command.commands.items())
        else:
            yield name, command


FOUND = dict(all_commands())


@pytest.mark.parametrize("words", FOUND)
def test_a_command_that_works_on_a_pipeline_takes_it_by_the_same_option(words: str) -> None:
    options = {option for parameter in FOUND[words].params for option in parameter.opts}
    assert ("--pipeline" in options) == (words.split(maxsplit=1)[0] not in WITHOUT_PIPELINE)


@pytest.mark.parametrize("words", FOUND)
def test_each_command_says_what_it_does(words: str) -> None:
    done = CliRunner().invoke(main, [*words.split(), "--help"])
    assert done.exit_code == 0, done.output
    assert words.rsplit(maxsplit=1)[-1] in done.output
