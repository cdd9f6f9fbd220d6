# SPDX-License-Identifier: GPL-2.0-only
"""The reference interpreter: BPF compiled to Python, every memory access checked, no code of any JIT."""

from .engine import BudgetSpent, Interpreter, InterpreterFault, Observer, Regs
from .program import Program

__all__ = ["BudgetSpent", "Interpreter", "InterpreterFault", "Observer", "Program", "Regs"]
