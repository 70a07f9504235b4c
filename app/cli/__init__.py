"""The command line: one module per command, imported when it is called (``streamgauge --help`` stays fast).

A command has a parameter for each of its options, however many these are: so click passes them on.
"""

from __future__ import annotations

import importlib
import os

import click

#: Command -> one line of help; the module is app.cli.<command with _ for ->, its command object ``command``.
COMMANDS = {
    "demo": "Run the whole job on a year of real flights and write a report.",
    "up": "Start Kafka, a worker and a monitor, and stay.",
    "worker": "Score the events of a pipeline.",
    "monitor": "Watch the scores of a pipeline: drift, performance, alerts, ClickHouse.",
    "hooks": "Tell others of scores, alerts, verdicts and models; list and send again what was given up.",
    "alerts": "List the alerts of a pipeline, and acknowledge one.",
    "model": "Train, register, list, show, promote and roll back model versions.",
    "produce": "Send a pipeline's source data to its topics.",
    "record": "Copy a pipeline's topics to a recording (Parquet).",
    "replay": "Run a recording or the topics through the same core; check or compare scores.",
    "replay-dead-letters": "Send what could not be scored back to where it came from, once.",
    "backfill": "Score history with a version, into ClickHouse beside the live scores.",
    "parity": "Compare the features that were served with the same computed anew, and by SQL.",
    "score": "Score a Parquet or CSV file.",
    "query": "Run SQL on the ClickHouse tables.",
    "check": "Check a pipeline file, its connections and its contracts.",
    "migrate": "Create or update topics and ClickHouse tables.",
    "bench": "Measure this machine: events per second, CPU per event.",
    "drift": "Measure drift monitoring: false alarms, delays, cost.",
}


class LazyGroup(click.Group):
    """A group that imports a command's module only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        if cmd_name == "worker":
            for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
                os.environ.setdefault(variable, "1")  # read when numpy is imported; workers scale by processes
        module = importlib.import_module(f"app.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="streamgauge")
def main() -> None:
    """Score a Kafka stream with a model that can be swapped, and say when data, scores or outcomes have moved.

    Exit codes: 0 fine, 1 a problem was found, 2 wrong usage.
    """
