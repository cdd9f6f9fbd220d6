# SPDX-License-Identifier: GPL-2.0-only
"""Recording executions of programs on either engine, and comparing them instruction by instruction."""

from .compare import Comparison, Difference, Kind, compare
from .interpreter import InterpreterRecorder
from .jit import JitRecorder
from .memory import Effect
from .record import REGISTERS, Execution, ProgText, Recording, Step, TraceFull, Where

__all__ = [
    "REGISTERS",
    "Comparison",
    "Difference",
    "Effect",
    "Execution",
    "InterpreterRecorder",
    "JitRecorder",
    "Kind",
    "ProgText",
    "Recording",
    "Step",
    "TraceFull",
    "Where",
    "compare",
]
