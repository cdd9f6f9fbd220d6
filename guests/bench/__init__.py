# SPDX-License-Identifier: GPL-2.0-only
"""The bench workloads: BPF objects (``NAME.bpf.o``) and their x86-64 twins (``NAME.bin``, ``NAME.json``)."""
