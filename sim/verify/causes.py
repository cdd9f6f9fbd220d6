# SPDX-License-Identifier: GPL-2.0-only
"""The table of searches: what the path is asked for each focus of a rule (rules.Focus)."""

from __future__ import annotations

from collections.abc import Callable

from .case import Case, Finding, nothing, origin
from .causes_path import cost, depth, loop, reference, slot_named
from .causes_reach import number_limits, packet, region
from .causes_values import argument, helper, null, pointer, stack, written
from .rule import Focus

SEARCHES: dict[Focus, Callable[[Case], Finding]] = {
    Focus.NOTHING: nothing,
    Focus.ORIGIN: origin,
    Focus.NULL: null,
    Focus.POINTER: pointer,
    Focus.ARGUMENT: argument,
    Focus.HELPER: helper,
    Focus.NUMBER: number_limits,
    Focus.REGION: region,
    Focus.PACKET: packet,
    Focus.WRITTEN: written,
    Focus.STACK: stack,
    Focus.REFERENCE: reference,
    Focus.LOOP: loop,
    Focus.COST: cost,
    Focus.DEPTH: depth,
    Focus.SLOT: slot_named,
}
"""Each gets a case and returns a finding: sentences about this very path, and its events that matter."""
