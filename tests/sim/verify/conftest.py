# SPDX-License-Identifier: GPL-2.0-only
"""The verifier's own test programs serve here, too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "kernel_model" / "verifier"))
