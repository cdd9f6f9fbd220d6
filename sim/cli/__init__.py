# SPDX-License-Identifier: GPL-2.0-only
"""The ``bpfsim`` command: one module a subcommand, wired in :mod:`sim.cli.main`."""
