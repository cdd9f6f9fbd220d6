# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim``: the commands by name, each imported when it is used, and the one place where errors end."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from .errors import Status, report
from .options import DEBUG, VERBOSE, debug_option, verbose_option

_COMMANDS = {
    "run": ("run", "run"),
    "load": ("load", "load"),
    "verify": ("verify", "verify"),
    "core": ("core", "core"),
    "trace": ("trace", "trace"),
    "diff": ("diff", "diff"),
    "disasm": ("disasm", "disasm"),
    "cbpf": ("cbpf", "cbpf"),
    "exec": ("exec", "exec_"),
    "fuzz": ("fuzz", "fuzz"),
    "conform": ("conform", "conform"),
    "bench": ("bench", "bench"),
    "support": ("support", "support"),
    "version": ("version", "version"),
}
"""Each command's module in this package, and the name of the click command there."""


class _Commands(click.Group):
    """Finds commands by the table above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All, in the table's order."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command; None for a name that there is not."""
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"{__package__}.{module}"), name)
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; whatever it raises ends in one line and a status."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except (click.exceptions.Exit, click.Abort, click.UsageError):
            raise
        except BrokenPipeError:
            # The reader has gone; keep Python from complaining about it once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return Status.OK
        except Exception as error:
            return report(error, bool(ctx.meta.get(VERBOSE)), bool(ctx.meta.get(DEBUG)))


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
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
        return int(result) if isinstance(result, int) else Status.OK
    except click.UsageError as error:
        context = f"{error.ctx.command_path}: " if error.ctx is not None else "bpfsim: "
        if type(error).__name__ == "NoArgsIsHelpError":
            # Since click 8.2: the message is the whole help.
            context = ""
        print(f"{context}{error.format_message()}", file=sys.stderr)
        return Status.BAD_INPUT
    except (click.Abort, KeyboardInterrupt):
        print("bpfsim: interrupted", file=sys.stderr)
        return 130


def main() -> None:
    """The console script."""
    sys.exit(run())


if __name__ == "__main__":
    main()
