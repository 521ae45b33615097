"""Damages files on purpose: values of another type, endless numbers, turned bytes, traps.

Everything is drawn from a `random.Random`, so an input can be made again from its number.
"""

import json
import os
import random
import re

_LONG_MARK = "@long number@"  # Becomes digits that json.dumps itself would refuse to write.
_DEEP_MARK = "@deep@"
_TEXTS = (
    "", " ", "a", "\0", "\ud800", "é\u2028", "../../etc/passwd", "/etc/passwd", "a" * 70_000, "NaN",
    "../outside/mine", "http://127.0.0.1:9/x", "file:///etc/passwd", "sent", "sent:X", "sent.X",
    "paligemma_jax.sources.jsonl:Jsonl", "os:system", "<loc0000>", "%s%n", "1e999", "0x10", "-1",
)  # fmt: skip
_NUMBERS = (
  0,
  -1,
  1,
  2,
  255,
  2**31,
  2**53,
  2**63,
  2**64,
  -(2**63),
  10**30,
  10**299,
  10**400,
  0.5,
  -0.0,
  1e308,
  5e-324,
  float("nan"),
  float("inf"),
  float("-inf"),
)
_WORDS = (
    b"<!DOCTYPE a [<!ENTITY b 'cc'>]>", b"&b;", b"<a>" * 40, b"&a", b"*a", b"!!timestamp x",
    b"!!python/object:sent.X", b"!!int ''", b"!!bool x", b"[" * 40, b"{" * 40, b'"', b"\\ud800",
    b"NaN", b"-", b"9" * 5000, b"1e999", b"null", b"true", b"\xff\xfe", b"\xef\xbb\xbf", b"\0",
    b"\n", b"\r", b",", b": ", b"../", b"http://127.0.0.1:9/", b"concat:x|y", b"#EXTM3U\n",
    b"\x80\x02csent\nX\n.",
    b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\xff\xff\xff\xff\x7f",
)  # fmt: skip


def hostile(rng: random.Random):
  """A value that stands where another is expected."""
  kind = rng.randrange(7)
  if kind == 0:
    return rng.choice(_TEXTS)
  if kind == 1:
    return rng.choice(_NUMBERS)
  if kind == 2:
    return rng.choice((None, True, False, _LONG_MARK, _DEEP_MARK))
  if kind == 3:
    return rng.choice(([], {}, [[]], [None], {"": 0}, [1] * 5000, {"a": {"b": []}}))
  if kind == 4:
    return [hostile(rng) for _ in range(rng.randrange(4))]
  if kind == 5:
    return {"__spec__": rng.choice(("sent:X", "paligemma_jax.sources.jsonl:Jsonl", 5, "os:getcwd"))}
  return rng.randrange(-(1 << rng.randrange(1, 70)), 1 << rng.randrange(1, 70))


def in_json(text: str, rng: random.Random) -> str:
  """A JSON text with one to three of its values, keys or parts changed."""
  value = json.loads(text)
  for _ in range(rng.choice((1, 1, 1, 2, 3))):
    value = _changed(value, rng)
  text = json.dumps(value)
  text = text.replace(f'"{_LONG_MARK}"', "9" * rng.choice((400, 5000, 100_000)))
  deep = rng.choice((33, 900, 50_000))
  return text.replace(f'"{_DEEP_MARK}"', "[" * deep + "]" * deep)


def _changed(value, rng: random.Random):
  if not isinstance(value, (dict, list)) or not value or rng.random() < 0.15:
    return hostile(rng)
  if isinstance(value, dict):
    key = rng.choice(list(value))
    action = rng.randrange(8)
    if action == 0:
      return {k: v for k, v in value.items() if k != key}
    if action == 1:
      return {**value, rng.choice((*_TEXTS, key + "x")): hostile(rng)}
    return {**value, key: _changed(value[key], rng)}
  i, action = rng.randrange(len(value)), rng.randrange(8)
  if action == 0:
    return value[:i] + value[i + 1 :]
  if action == 1:
    return value[: i + 1] + value[i:]
  return [*value[:i], _changed(value[i], rng), *value[i + 1 :]]


def in_bytes(data: bytes, rng: random.Random) -> bytes:
  """The bytes with some turned, cut out, repeated, swapped or put in."""
  data = bytearray(data)
  for _ in range(rng.choice((1, 1, 2, 3, 8))):
    at = rng.randrange(len(data) + 1)
    size = min(rng.choice((1, 1, 2, 4, 16, 200)), len(data) - at)
    action = rng.randrange(8)
    if action <= 2 and at < len(data):
      data[at] = rng.randrange(256) if action else data[at] ^ (1 << rng.randrange(8))
    elif action == 3:
      del data[at : at + size]
    elif action == 4:
      data[at:at] = data[at : at + size] * rng.choice((1, 2, 50))
    elif action == 5:
      data[at:at] = rng.choice(_WORDS)
    elif action == 6:
      data[at : at + size] = rng.choice((rng.choice(_WORDS)[:size], rng.randbytes(size)))
    else:
      del data[at:]
  return bytes(data)


def in_numbers(data: bytes, rng: random.Random) -> bytes:
  """A text with one of its numbers, or one of its words, changed."""
  found = list(re.finditer(rb"[-+]?[0-9][0-9.]*" if rng.random() < 0.7 else rb"\w+", data))
  if not found:
    return in_bytes(data, rng)
  match = rng.choice(found)
  new = rng.choice(
      (b"9" * 400, b"9" * 5000, b"-1", b"0", b"nan", b"inf", b"1e999", b"", b"\xff", b"1_000",
       "٣".encode(), str(rng.choice(_NUMBERS[:12])).encode())
  )  # fmt: skip
  return data[: match.start()] + new + data[match.end() :]


def of_file(name: str, data: bytes, rng: random.Random) -> bytes:
  """The content of a file, changed in a way that suits its kind."""
  if rng.random() < 0.25:
    return in_bytes(data, rng)
  if name.endswith(".json"):
    return in_json(data.decode(), rng).encode("utf-8", "surrogatepass")
  if name.endswith(".jsonl"):
    lines = data.split(b"\n")
    i = rng.choice([i for i, line in enumerate(lines) if line])
    lines[i] = in_json(lines[i].decode(), rng).encode("utf-8", "surrogatepass")
    return b"\n".join(lines)
  if name.endswith((".xml", ".yaml", ".txt")):
    return in_numbers(data, rng)
  return in_bytes(data, rng)


def trap(path: str, outside: str, rng: random.Random) -> None:
  """Puts something else than a regular file in the place of one."""
  os.unlink(path)
  action = rng.randrange(7)
  if action == 0:
    os.mkfifo(path)
  elif action == 1:
    os.mkdir(path)
  elif action == 2:
    os.symlink(outside, path)
  elif action == 3:
    os.symlink("/dev/zero", path)
  elif action == 4:
    os.symlink(os.path.basename(path), path)  # To itself.
  elif action == 5:
    open(path, "wb").close()
