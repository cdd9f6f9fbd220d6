# SPDX-License-Identifier: GPL-2.0-only
"""Seeded random programs: our images are the host kernel's, byte for byte."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator

import host_bpf
import pytest
from host_reference import compile_as_host, map_value
from random_programs import MAP_SIZE, random_program

SAMPLE = 200
CAMPAIGN = 5000


@pytest.fixture(scope="module")
def array() -> Iterator[int]:
    fd = host_bpf.map_create(host_bpf.BPF_MAP_TYPE_ARRAY, 4, MAP_SIZE, 1)
    yield fd
    os.close(fd)


def compare(seeds: Iterable[int], array: int) -> tuple[int, int, int]:
    """Programs compared, refused by the host, and slots compared; stops at the first difference."""
    compared = refused = slots = 0
    for seed in seeds:
        program = random_program(seed, map_value(9, array, MAP_SIZE // 2))
        try:
            result = compile_as_host(program)
        except host_bpf.HostRefused as error:
            assert error.errno in (errno.EACCES, errno.EINVAL, errno.E2BIG), f"seed {seed}: {error}"
            refused += 1
            continue
        assert not result.differences, f"seed {seed}: {result.differences[0]}"
        compared += 1
        slots += len(result.insns)
    return compared, refused, slots


@host_bpf.host_kernel
def test_random_programs(array: int) -> None:
    compared, refused, _ = compare(range(SAMPLE), array)
    assert compared >= 0.9 * SAMPLE, f"{refused} of {SAMPLE} refused: the generator misses the point"


@host_bpf.host_kernel
@pytest.mark.campaign
def test_random_campaign(array: int) -> None:
    compared, refused, slots = compare(range(1_000_000, 1_000_000 + CAMPAIGN), array)
    print(f"{compared} programs with {slots} slots equal, {refused} refused by the host's verifier")
    assert compared >= 0.9 * CAMPAIGN
