"""Philox 4x32-10 in Python: what the GPU's draws are held against."""

from __future__ import annotations


def philox(counter, key):
    """Four draws of 32 bits, as the paper defines them: of a counter, four words, and a key."""
    c, low, high = list(counter), key % 2**32, key >> 32
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ low, b % 2**32, a >> 32 ^ c[3] ^ high, a % 2**32]
        low, high = (low + 0x9E3779B9) % 2**32, (high + 0xBB67AE85) % 2**32
    return c
