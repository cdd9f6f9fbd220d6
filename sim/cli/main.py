# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim``: the commands by name, each imported when it is used, and the one place where errors end."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence

import click

from .errors import Status, report
from .options import DEBUG, VERBOSE, debug_option, verbose_option

_COMMANDS = {
    "run": "run",
    "load": "load",
    "verify": "verify",
    "trace": "trace",
    "disasm": "disasm",
    "exec": "exec",
    "bench": "bench",
    "support": "support",
    "version": "version",
}
"""Command and module of this package; the module holds a click command of the command's name."""


class _Commands(click.Group):
    """Finds commands by the table above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Those whose module is there, in the table's order."""
        return [
            name
            for name, module in _COMMANDS.items()
            if importlib.util.find_spec(f"{__package__}.{module}") is not None
        ]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command; None for a name that there is not."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"{__package__}.{_COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; whatever it raises ends in one line and a status."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, BrokenPipeError, KeyboardInterrupt):
            raise
        except Exception as error:
            if isinstance(error, click.UsageError):
                raise
            return report(error, bool(ctx.meta.get(VERBOSE)), bool(ctx.meta.get(DEBUG)))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@verbose_option
@debug_option
def cli(verbose: int) -> None:
    """A full-system simulator of the Linux BPF subsystem on x86-64.

    Loads BPF objects into a simulated Linux 6.18, verifies them, runs them on the interpreter and as JIT
    code over packets, and compares the two instruction by instruction. Needs no root and no kernel.

    \b
    Exit status: 0 agree or accepted, 1 differs or rejected, 2 bad input, 3 not modelled.
    """


def run(argv: Sequence[str] | None = None) -> int:
    """Run ``bpfsim`` with these arguments (default: the process's); the exit status."""
    try:
        result = cli.main(list(argv) if argv is not None else None, "bpfsim", standalone_mode=False)
        sys.stdout.flush()
        return int(result) if isinstance(result, int) else Status.OK
    except click.UsageError as error:
        context = f"{error.ctx.command_path}: " if error.ctx is not None else "bpfsim: "
        print(f"{context}{error.format_message()}", file=sys.stderr)
        return Status.BAD_INPUT
    except (click.Abort, KeyboardInterrupt):
        print("bpfsim: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone; keep Python from complaining about it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Status.OK


def main() -> None:
    """The console script."""
    sys.exit(run())


if __name__ == "__main__":
    main()
