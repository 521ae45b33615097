"""Random permutations and generators as functions of (seed, purpose, index), without state.

All of it is arithmetic on 64-bit words, so that the numbers depend on no platform, library version
or earlier draw. It is not for secrets.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MUL_1 = 0xBF58476D1CE4E5B9
_MUL_2 = 0x94D049BB133111EB
_NUM_ROUNDS = 8

Word: TypeAlias = Any  # uint64, or an array of them: numpy's types do not cover both at once.


def key(*parts: int | np.ndarray) -> np.ndarray:
  """uint64[...]: a hash of these integers; arrays broadcast."""
  word: Word = np.uint64(0)
  for part in parts:
    if isinstance(part, np.ndarray):
      word = _mix(word ^ _mix(part.astype(np.uint64)))
    else:
      word = _mix(word ^ _mix(np.uint64(int(part) & _MASK)))
  return np.asarray(word)


def permute(position: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
  """int64[...] in 0..n-1: the images of `position` under a random permutation of 0..n-1.

  A Feistel network over the smallest power of two that holds n, repeated until the result is below
  n, is a bijection for every key and needs no table.

  Args:
    position: int64[...], each in 0..n-1.
    keys: uint64, broadcast against `position`: one permutation per key.
  """
  num_bits = max(int(n - 1).bit_length(), 1)
  # The halves may differ by a bit.
  low_bits = np.uint64((num_bits + 1) // 2)
  low_mask = np.uint64((1 << ((num_bits + 1) // 2)) - 1)
  high_mask = np.uint64((1 << (num_bits // 2)) - 1)
  value = np.array(np.broadcast_to(position, np.broadcast(position, keys).shape), np.uint64)
  keys = np.broadcast_to(keys, value.shape)
  todo = np.ones(value.shape, bool)
  while todo.any():
    high, low = value[todo] >> low_bits, value[todo] & low_mask
    for i in range(_NUM_ROUNDS):
      round_key = keys[todo] ^ _mix(np.uint64(i))
      if i % 2:
        high = high ^ (_mix(low ^ round_key) & high_mask)
      else:
        low = low ^ (_mix(high ^ round_key) & low_mask)
    value[todo] = (high << low_bits) | low
    todo &= value >= np.uint64(n)
  return value.astype(np.int64)


def choice_index(seed: int, row: int, epoch: int, n: int) -> int:
  """Which of `n` options a row uses in this epoch: in n epochs each of them once."""
  cycle, position = divmod(epoch, n)
  return int(np.argsort(key(_CHOICE, seed, row, cycle, np.arange(n)), kind="stable")[position])


def generator(*parts: int) -> np.random.Generator:
  """A numpy generator that depends only on these integers, taken modulo 2**64."""
  return np.random.Generator(np.random.PCG64(np.random.SeedSequence([p & _MASK for p in parts])))


_CHOICE = 0x63686F696365  # "choice", the purpose of these numbers.


def _mix(word: Word) -> Word:
  """The finaliser of splitmix64 (Steele, Lea and Flood, 2014): a bijection on 64-bit words."""
  with np.errstate(over="ignore"):
    word = word + np.uint64(_GOLDEN)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(_MUL_1)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(_MUL_2)
    return word ^ (word >> np.uint64(31))
