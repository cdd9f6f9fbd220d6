# SPDX-License-Identifier: GPL-2.0-only
"""What a row of the table of rejections is (:mod:`sim.verify.rules`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Focus(Enum):
    """What the path is searched for."""

    NOTHING = "nothing"
    ORIGIN = "where the registers come from"
    NULL = "whether a check for NULL was made"
    POINTER = "where a pointer became a number"
    ARGUMENT = "what the helper takes, and where the argument comes from"
    HELPER = "which program types have the helper"
    NUMBER = "where a number got and lost its limits"
    REGION = "how far an access reaches"
    PACKET = "what of the packet was proved to be there"
    WRITTEN = "who wrote the register last"
    STACK = "which stack bytes were written"
    REFERENCE = "where a reference was taken and its last copy lost"
    LOOP = "what changes from round to round"
    COST = "where instructions are spent"
    DEPTH = "how much stack each function needs"
    SLOT = "the instruction that the message names"


class Needs(Enum):
    """Which registers the explanation shows."""

    NONE = "none"
    NAMED = "those the message names"
    OPERANDS = "those the instruction reads"
    ARGUMENTS = "the arguments of the call"
    RESULT = "r0"


@dataclass(frozen=True)
class Rule:
    """One row. ``title`` is the headline; ``why`` and ``fixes`` are sentences."""

    key: str
    pattern: re.Pattern[str]
    title: str
    why: str
    fixes: tuple[str, ...] = ()
    needs: Needs = Needs.NAMED
    focus: Focus = Focus.ORIGIN


def rule(
    key: str,
    pattern: str,
    title: str,
    why: str,
    fixes: tuple[str, ...] = (),
    needs: Needs = Needs.NAMED,
    focus: Focus = Focus.ORIGIN,
) -> Rule:
    """A row, its pattern as text."""
    return Rule(key, re.compile(pattern), title, why, fixes, needs, focus)
