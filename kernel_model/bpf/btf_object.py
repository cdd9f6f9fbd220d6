# SPDX-License-Identifier: GPL-2.0-only
"""BTF that user space loaded: bytes with an id, parsed when somebody asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..btf.parse import Btf
from ..objects import KObject

if TYPE_CHECKING:
    from ..kernel import Kernel


class BtfObject(KObject):
    """A loaded BTF blob."""

    kind = "btf"

    def __init__(self, kernel: Kernel, btf: Btf) -> None:
        super().__init__()
        self.data = btf.data
        self._parsed: Btf | None = btf
        self.id = kernel.btfs.add(self)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_parsed": None}

    def parsed(self) -> Btf:
        """The types; read again after the state was restored."""
        if self._parsed is None:
            self._parsed = Btf(self.data)
        return self._parsed

    def release(self, kernel: Kernel) -> None:
        """The last user went."""
        kernel.btfs.remove(self.id)
