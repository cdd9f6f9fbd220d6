# SPDX-License-Identifier: GPL-2.0-only
"""The main job: a program over a capture, on both engines, and the comparison of what they did."""

from .job import ENGINES, INTERPRETER, JIT, EngineResult, Fill, Job, Report, run_job

__all__ = ["ENGINES", "INTERPRETER", "JIT", "EngineResult", "Fill", "Job", "Report", "run_job"]
