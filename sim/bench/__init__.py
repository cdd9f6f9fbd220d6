# SPDX-License-Identifier: GPL-2.0-only
"""Benchmarks: BPF workloads on both engines, against the same C as x86-64 code in the same machine."""
