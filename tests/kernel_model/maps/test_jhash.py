# SPDX-License-Identifier: GPL-2.0-only
"""jhash() against numbers that the kernel's own C code gave, for every length of a last block and more."""

from kernel_model.maps.jhash import jhash

KEY = bytes((i * 7 + 3) & 0xFF for i in range(64))

# jhash(KEY[:n], n * 77777) for n = 1, 2, ...
EXPECTED = (
    1328730654,
    2406838242,
    1185618370,
    736558192,
    1909127701,
    1971026837,
    2198952573,
    2940577884,
    3970712987,
    2125064087,
    1478977221,
    323162137,
    958695690,
    3623491768,
    559598204,
    258385815,
    148857666,
    180017509,
    24919333,
    2155041373,
    3142816828,
    2856046274,
    3041956749,
    1630775576,
    3727418033,
    34227515,
    2654268128,
    767269209,
    3143182313,
    3294724210,
    3565037486,
    3478126961,
    1980385378,
    3595937287,
    247890693,
    2606178906,
    2440347075,
    2238874870,
    1557708421,
)


def test_every_length() -> None:
    assert tuple(jhash(KEY[:n], n * 77777) for n in range(1, len(EXPECTED) + 1)) == EXPECTED


def test_empty_key_is_the_seed() -> None:
    assert jhash(b"", 5) == 0xDEADBEEF + 5
