# SPDX-License-Identifier: GPL-2.0-only
"""Classic BPF: socket filters and seccomp filters, checked and converted to eBPF as Linux 6.18 does it.

``table`` lists the instructions and the ancillary loads, ``check`` refuses what the kernel refuses,
``convert`` makes eBPF, ``prog`` loads the result, ``text`` and ``listing`` read and write programs.
"""
