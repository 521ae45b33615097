"""Sampling options of evaluators, `PaliGemma.generate` and `python -m paligemma_jax.predict`.

    temperature         draw from softmax(logits / temperature); 0 is greedy; None is 1 where top_k
                        or top_p is set, else that of `sampler`
    top_k               only the k most likely tokens; 0: all
    top_p               only the fewest most likely tokens that have this probability; 1: all
    repetition_penalty  above 1 tokens of the prompt and the answer become less likely; 1: none
    stop                texts before which an answer ends

`sampler="top_k(40, 0.7)"` stands for the first three, so it excludes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from paligemma_jax.core import errors

_EXPECTED = {
  "temperature": "a number from 0 on; 0 is greedy",
  "top_k": "a whole number from 0 on; 0 is all tokens",
  "top_p": "a number above 0 and at most 1; 1 is all tokens",
  "repetition_penalty": "a number above 0; 1 is none",
  "stop": "a text, or several, that are not empty",
}
FIELDS = tuple(_EXPECTED)


def check(asked: Any) -> None:
  """Raises a ConfigError for the first of the `problems`."""
  for problem in problems(asked):
    raise errors.ConfigError(problem)


def problems(asked: Any) -> Iterator[str]:
  """What is wrong with the options of `asked`, whose attributes are FIELDS, sampler, beam_size."""
  temperature, top_k, top_p, penalty, stop = (getattr(asked, name) for name in FIELDS)
  several = texts(stop) if isinstance(stop, (str, tuple, list)) else ("",)
  legal = {
    "temperature": temperature is None or (_is_number(temperature) and temperature >= 0),
    "top_k": _is_number(top_k) and top_k >= 0 and top_k == int(top_k),
    "top_p": _is_number(top_p) and 0 < top_p <= 1,
    "repetition_penalty": _is_number(penalty) and penalty > 0,
    "stop": all(isinstance(text, str) and text for text in several),
  }
  wrong = [name for name, is_legal in legal.items() if not is_legal]
  yield from (f"{name}={getattr(asked, name)!r} must be {_EXPECTED[name]}." for name in wrong)
  if wrong or not _says_numbers(asked) or not isinstance(asked.sampler, str):
    return
  numbers = f"{temperature=}, {top_k=}, {top_p=}"
  if asked.sampler.strip() != "greedy":
    yield f"sampler={asked.sampler!r} and {numbers}: choose one of the two ways."
  elif isinstance(asked.beam_size, int) and asked.beam_size > 1 and temperature != 0:
    yield f"beam_size={asked.beam_size!r} searches, {numbers} draw: choose one of them."


def sampler(asked: Any) -> str:
  """The text for `decoding.search.sampler`; `asked` must have no problems."""
  if not _says_numbers(asked):
    return asked.sampler
  if asked.temperature == 0:
    return "greedy"
  temperature = 1.0 if asked.temperature is None else asked.temperature
  return f"draw({asked.top_k}, {asked.top_p}, {temperature})"


def texts(stop: str | tuple[str, ...] | list[str]) -> tuple[str, ...]:
  """The texts of `stop` as a tuple."""
  return (stop,) if isinstance(stop, str) else tuple(stop)


def _says_numbers(asked: Any) -> bool:
  return asked.temperature is not None or asked.top_k != 0 or asked.top_p != 1


def _is_number(value: Any) -> bool:
  return type(value) in (int, float) and math.isfinite(value) and abs(value) < 1e9
