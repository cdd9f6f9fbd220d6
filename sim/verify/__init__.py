# SPDX-License-Identifier: GPL-2.0-only
"""The verifier for people: rejections in plain words, what a program costs, many objects in one table."""
