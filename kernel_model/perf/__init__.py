# SPDX-License-Identifier: GPL-2.0-only
"""Perf events: what programs write samples to and a process reads them from."""
