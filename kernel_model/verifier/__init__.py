# SPDX-License-Identifier: GPL-2.0-only
"""The verifier: what may run, and what it is rewritten to; ``api.verify`` is the way in."""

from .compiled import adopt

adopt(__name__, __path__)
