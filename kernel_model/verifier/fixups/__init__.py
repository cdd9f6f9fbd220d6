# SPDX-License-Identifier: GPL-2.0-only
"""What is done to a checked program before it runs."""

from ..compiled import adopt

adopt(__name__, __path__)
