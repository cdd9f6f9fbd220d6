# SPDX-License-Identifier: GPL-2.0-only
"""What the verifier does to a program that it found safe, in Linux's order (see main.bpf_check)."""
