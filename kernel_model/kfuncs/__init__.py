# SPDX-License-Identifier: GPL-2.0-only
"""Kernel functions that programs may call by their BTF ids (kfuncs, 5.13): the table, and what they do."""
