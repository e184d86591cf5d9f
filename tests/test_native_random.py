"""Random numbers and checksums against published answers."""

from __future__ import annotations

import errno

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbflow import _native
from mbflow.errors import InvalidArgumentError

STREAM = 1 << 16


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 as published."""
    mask = 2**32 - 1
    for _ in range(10):
        first, second = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [
            (second >> 32) ^ counter[1] ^ key[0],
            second & mask,
            (first >> 32) ^ counter[3] ^ key[1],
            first & mask,
        ]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return counter


def test_the_generator_gives_published_answers():
    assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert _native.random_u64(0, 0, 0, 1).tolist() == [0xE169C58D_6627E8D5]


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    stream=st.integers(0, 2**32 - 1),
    index=st.integers(0, 2**64 - 1),
)
def test_a_draw_is_the_documented_function(seed, stream, index):
    mask = 2**32 - 1
    block = philox([index & mask, index >> 32, stream, 0], [seed & mask, seed >> 32])
    assert _native.random_u64(seed, stream, index, 1).tolist() == [block[0] | block[1] << 32]


@settings(deadline=None)
@given(seed=st.integers(0, 2**64 - 1), bound=st.integers(1, 2**64 - 1))
def test_bounded_draws_are_below_the_bound(seed, bound):
    draws = _native.random_integers(seed, STREAM, bound, 0, 50)
    assert (draws < bound).all()
    bits = _native.random_u64(seed, STREAM, 0, 50)
    # Lemire: the high word of draw * bound, unless the attempt is one of the few that are drawn again.
    again = [(int(x) * bound) & (2**64 - 1) < (2**64 - bound) % bound for x in bits]
    expected = [int(x) * bound >> 64 for x in bits]
    assert all(a or d == e for a, d, e in zip(again, draws.tolist(), expected, strict=True))


def test_normal_draws_are_normal_quantiles():
    stats = pytest.importorskip("scipy.stats")
    uniform = (
        (_native.random_u64(9, STREAM, 0, 20_000) >> np.uint64(12)).astype("f8") + 0.5
    ) / 2**52
    np.testing.assert_allclose(
        _native.random_normal(9, STREAM, 0, 20_000), stats.norm.ppf(uniform), rtol=1e-6
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), n=st.integers(0, 200))
def test_a_permutation_is_fisher_yates_over_the_stream(seed, n):
    order = list(range(n))
    for last in range(n - 1, 0, -1):
        other = int(_native.random_integers(seed, STREAM, last + 1, last, 1)[0])
        order[last], order[other] = order[other], order[last]
    assert _native.permutation(seed, STREAM, n).tolist() == order


KNOWN_DIGESTS = {
    b"": "99aa06d3014798d86001c324468d497f",
    b"a": "a96faf705af16834e6c632b61e964e1f",
    b"abc": "06b05ab6733a618578af5f94892f3950",
}


def test_checksums_of_known_bytes(tmp_path):
    for data, digest in KNOWN_DIGESTS.items():
        path = tmp_path / "data"
        path.write_bytes(data)
        assert _native.xxh3_128(data) == digest
        assert _native.xxh3_128_file(path) == _native.xxh3_128_file(str(path)) == digest


@pytest.mark.parametrize("size", [240, 241, 4096, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_all_ways_to_hash_agree(size, tmp_path):
    data = _native.random_u64(1, STREAM, 0, size // 8 + 1).tobytes()[:size]
    path = tmp_path / "data"
    path.write_bytes(data)
    digests = {_native.xxh3_128(way(data)) for way in (bytes, bytearray, memoryview)}
    assert digests == {_native.xxh3_128_file(path)}
    changed = bytearray(data)
    changed[size // 2] ^= 1
    assert _native.xxh3_128(changed) not in digests


def test_files_that_cannot_be_read_say_why(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        _native.xxh3_128_file(tmp_path / "none")
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == str(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        _native.xxh3_128_file(tmp_path)
    with pytest.raises(InvalidArgumentError, match="data: expected a bytes-like object"):
        _native.xxh3_128("text")
