"""Two hosts load weights together: with the bits of one host, and each byte is read by one."""

import hashlib
import json
import subprocess
import sys

import numpy as np

from paligemma_jax.checkpoint import opening
from paligemma_jax.core import bucket
from paligemma_jax.multihost import channel
from tests import virtual_devices
from tests.checkpoint import makers

_SIZES = makers.sizes()
_PARAMS = makers.params(_SIZES)


def _upload(folder, path):
  for file in folder.iterdir():
    bucket.upload(file, f"{path}/{file.name}")
  return path


def _on_two_hosts(paths):
  """The JSON lines of each host."""
  port = channel.free_port()
  command = [sys.executable, "-m", "tests.checkpoint.shared_reading_run", str(port)]
  processes = [
    subprocess.Popen(
      [*command, str(i), *map(str, paths)],
      env=virtual_devices.environment(2),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  ended = [p.communicate(timeout=300) for p in processes]
  assert [p.returncode for p in processes] == [0, 0], ended
  lines = [[line for line in out.splitlines() if line.startswith("{")] for out, _ in ended]
  return [[json.loads(line) for line in listed] for listed in lines]  # Gloo has lines of its own.


def _expected(path, shards):
  weights = opening.open_weights(path)
  found = {}
  for key in shards:
    name, _, index = key.partition(" ")
    part = weights.read(name)[eval(index, {"slice": slice, "None": None})]
    found[key] = hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest()
  return found


def test_two_hosts_read_each_byte_once_and_have_the_bits_of_one(tmp_path, gcs):
  stored = makers.write_npz(tmp_path / "w.npz", _PARAMS)
  deflated = makers.write_npz(tmp_path / "deflated.npz", _PARAMS, deflate=True)
  tensors = makers.hf_tensors(makers.params(_SIZES, makers.BFLOAT16), _SIZES)
  hf = makers.write_hf(tmp_path / "hf", tensors, makers.hf_config(_SIZES), num_shards=2)
  data = bytearray(stored.read_bytes())
  data[len(data) // 2] ^= 1
  damaged = tmp_path / "damaged.npz"
  damaged.write_bytes(data)
  in_bucket = _upload(hf, "gs://test-bucket/shared_reading")
  run = makers.write_run(tmp_path / "run", _PARAMS)
  paths = [stored, deflated, hf, in_bucket, run, damaged]

  hosts = _on_two_hosts(paths)

  for path, *lines in zip(paths[:5], *(lines[:5] for lines in hosts), strict=True):
    assert lines[0]["shards"].keys() != lines[1]["shards"].keys(), path
    for line in lines:
      assert line["shards"] == _expected(path, line["shards"]), path
  num_bytes = sum(array.nbytes for array in _PARAMS.values())
  for i, whole in ((0, num_bytes), (2, num_bytes // 2), (3, num_bytes // 2)):
    read = [lines[i]["num_read"] for lines in hosts]
    twice = 2 * 128 * len(_PARAMS)  # Both read array headers, and what is too small to share.
    assert sum(read) <= whole + twice and min(read) > 0.4 * whole, (i, read, whole)
  for lines in hosts:
    assert lines[4]["num_read"] == 0  # Shards are restored.
    assert "damaged" in lines[5]["error"] and str(damaged) in lines[5]["error"]
