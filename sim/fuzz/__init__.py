# SPDX-License-Identifier: GPL-2.0-only
"""Fuzzing the engines: seeded programs, run on interpreter and JIT from one state, shrunk when they part."""
