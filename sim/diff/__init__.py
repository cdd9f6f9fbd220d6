# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim diff``: both engines over the same state, and the first instruction where they part."""
