# SPDX-License-Identifier: GPL-2.0-only
"""How many arguments a called kernel function takes, by its symbol."""

from __future__ import annotations

from functools import cache

from kernel_model.functions import FUNCTIONS
from kernel_model.helpers.table import BY_NAME, HELPERS, num_params

_MAP_OPERATION = "map_"


@cache
def _helpers() -> dict[str, int]:
    """Symbols of the helper table."""
    return {
        symbol: num_params(row.protos.get(group, row.proto))
        for row in HELPERS.values()
        if row.proto is not None
        for group, symbol in row.symbols.items()
    }


def arity(symbol: str) -> int | None:
    """The number of arguments (0 to 5); None when no table knows the function.

    A map's own operation, which the verifier puts in a helper's place (``htab_map_update_elem``), takes what
    the helper takes.
    """
    known = _helpers().get(symbol)
    if known is None and _MAP_OPERATION in symbol:
        row = BY_NAME.get(symbol[symbol.index(_MAP_OPERATION) :])
        known = num_params(row.proto) if row is not None and row.proto is not None else None
    if known is None and symbol in FUNCTIONS:
        known = FUNCTIONS[symbol].nargs
    return known
