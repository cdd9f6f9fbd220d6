# SPDX-License-Identifier: GPL-2.0-only
"""Leaving bytes out of a comparison."""

from __future__ import annotations

from collections.abc import Sequence


def masked(code: bytes, masks: Sequence[Sequence[int]]) -> bytes:
    """``code`` with zeroes in the byte ranges ``masks``."""
    out = bytearray(code)
    for start, end in masks:
        out[start:end] = bytes(len(out[start:end]))
    return bytes(out)
