"""Standard normal noise known by its number: vector m of a seed is made again from (seed, m) alone.

Method: a counter-based generator. Vector m in R^d is the quantiles, Phi^-1((k + 1/2) / 2^52), of the upper 52 bits of
the d first words of Philox4x64-10 (Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011)
at the counters m ceil(d / 4), m ceil(d / 4) + 1, ..., under a key that is hashed from the seed. No state runs from one
vector to the next, so that any process makes any of them, in any order and any company, at the cost of that vector.

Guarantee: numpy promises the words of a seed for all its versions and machines. The quantiles (scipy's ndtri, in
float64) may differ between machines in their last digits: in float32 few numbers differ, and by one rounding. Vectors
are independent, and N(0, I) up to the 2^-52 by which the levels are apart.

Cost: about 50 ns a number on one core, and 15 us for each run of consecutive vectors.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtri
from torch import Tensor

__all__ = ["NumberedNoise"]

_WORDS = 4  # of 64 bits, that one value of Philox's counter gives
_USED_BITS = 52  # of a word: as many as a float64 holds with the half that is added, so that no level rounds to 1
_CHUNK = 1 << 15  # numbers turned into quantiles at once: they stay in a cache near the core


class NumberedNoise:
    """The noise of a seed in R^dim, vector by vector; it keeps no state.

    Args:
        seed: any integer of at most 64 bits.
        dim: coordinates of a vector.
    """

    def __init__(self, seed: int, dim: int) -> None:
        self.dim = dim
        self._key = np.random.SeedSequence(int(seed) % 2**64).generate_state(2, np.uint64)
        self._counters = -(-dim // _WORDS)  # that one vector takes

    def run(self, first: int, count: int) -> Tensor:
        """Vectors first, ..., first + count - 1, (count, dim) float64."""
        return _normal(self._words(first, count)[:, : self.dim])

    def of(self, numbers: list[int]) -> Tensor:
        """Vectors of any numbers, (len(numbers), dim) float64."""
        if not numbers:
            return torch.empty(0, self.dim, dtype=torch.float64)
        return _normal(np.concatenate([self._words(number, 1)[:, : self.dim] for number in numbers]))

    def _words(self, first: int, count: int) -> npt.NDArray[np.uint64]:
        bits = np.random.Philox(counter=first * self._counters, key=self._key)
        return bits.random_raw(count * self._counters * _WORDS).reshape(count, -1)


def _normal(words: npt.NDArray[np.uint64]) -> Tensor:
    """The normal quantile of each word."""
    normal = np.empty(words.shape)
    flat, source = normal.reshape(-1), words.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        level = (source[part] >> np.uint64(64 - _USED_BITS)).astype(np.float64)
        level += 0.5
        level *= 2.0**-_USED_BITS
        ndtri(level, out=flat[part])
    return torch.from_numpy(normal)
