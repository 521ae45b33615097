"""Image features of a frozen vision tower, computed once per image and kept.

The features are the tower's output before its head, which may train. Their key is a hash of the
image's pixels after the row ops, so they cannot be stale. A folder's name also depends on the
tower, sizes, dtype and kind of device.

  B rows of this process, R side in pixels, I image tokens, D the tower's width.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from concurrent import futures

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from paligemma_jax.core import atomic_io
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.models import paligemma
from paligemma_jax.multihost import agreement
from paligemma_jax.trainer import setup as setups
from paligemma_jax.training import sharding

_HEAD = "img/head/"
_NUM_THREADS = 16  # A request to a bucket takes tens of milliseconds, whatever its size.


class FeatureCache:
  """Replaces the images of a batch by their features.

  Raises:
    ConfigError: a parameter of the tower trains, or the bucket is of an unknown kind.
  """

  def __init__(self, setup: setups.Setup, note: Callable[[str], None]):
    trained = [n for n in setup.trainable if n.startswith("img/") and not n.startswith(_HEAD)]
    if trained:
      raise errors.ConfigError(
        "train.cache_image_features keeps the image features of a frozen vision tower, but"
        f" {len(trained)} of its parameters train, as {trained[0]!r}. Freeze it"
        " (tune=...+freeze_vit, or optim.freeze=('img/(?!head/).*',)), or set"
        " train.cache_image_features=''."
      )
    self._train = setup.config.train
    self._setup = setup
    self._note = note
    self._place = bucket.path(self._train.cache_image_features)
    self._store: Memory | Folder | None = None  # Made at the first batch.
    self._pool = futures.ThreadPoolExecutor(_NUM_THREADS)
    self._num_found = self._num_computed = self._num_left_out = 0

    def encode(params, image):
      with sharding.rows_stay(setup.mesh):
        return paligemma.encode_images(setup.model_config, params, image)

    rows = sharding.batch_sharding(setup.mesh)
    self._encode = jax.jit(encode, in_shardings=(None, rows), out_shardings=rows)

  def fill(
    self, batch: Mapping[str, np.ndarray], params: Mapping[str, jax.Array]
  ) -> dict[str, np.ndarray]:
    """The batch with `encoded` dtype[B, I, D] in place of `image` uint8[B, (F,) R, R, 3]."""
    images = batch["image"]
    tower = {name: x for name, x in params.items() if name.startswith("img/")}
    if self._store is None:
      self._store = self._open(tower, images.shape)
    store = self._store
    keys = [hashlib.blake2b(i.tobytes(), digest_size=16).hexdigest() for i in images]
    rows = {key: i for i, key in enumerate(keys)}  # An image that is there twice, once.
    found = dict(zip(rows, self._pool.map(store.get, rows), strict=True))
    known = {key: array for key, array in found.items() if array is not None}
    missing = [key for key in rows if key not in known]
    # The tower is one program over all processes: all of them run it, or none.
    if any(agreement.gather(bool(missing))):
      computed = self._compute(tower, images)
      known |= {key: computed[rows[key]] for key in missing}
      num_kept = sum(self._pool.map(lambda key: store.put(key, known[key]), missing))
      if num_kept < len(missing) and not self._num_left_out:
        self._note(
          f"train.cache_image_features: {store.limit()}; other images are computed every time"
        )
      self._num_left_out += len(missing) - num_kept
    self._num_found += len(rows) - len(missing)
    self._num_computed += len(missing)
    rest = {name: value for name, value in batch.items() if name != "image"}
    return {**rest, "encoded": np.stack([known[key] for key in keys])}

  def summary(self) -> str:
    """How many images were computed, found and left out, in a line."""
    num_bytes = self._store.num_bytes if self._store else 0
    parts = [
      f"vision tower: {self._num_computed} images computed, {self._num_found} found in"
      f" {self._train.cache_image_features}, which holds {num_bytes / 1e9:.2f} GB"
    ]
    if self._store and self._num_left_out:
      parts.append(f"{self._num_left_out} were not kept: {self._store.limit()}")
    if self._store and self._store.num_broken:
      parts.append(f"{self._store.num_broken} were damaged or unreadable, and computed again")
    return "; ".join(parts)

  def _compute(self, tower, images):
    # As many at once as the step has: with gradient accumulation, memory is short.
    num = len(images) // self._train.grad_accum_steps
    parts = []
    for start in range(0, len(images), num):
      on_device = sharding.put({"image": images[start : start + num]}, self._setup.mesh)
      encoded = self._encode(tower, on_device["image"])
      parts.append(agreement.local_rows(encoded))
    return np.concatenate(parts)

  def _open(self, tower, shape):
    max_bytes = int(self._train.feature_cache_gb * 1e9)
    if self._train.cache_image_features == "memory":
      return Memory(max_bytes)
    model_config = self._setup.model_config
    num_images = shape[1] if len(shape) == 5 else 1
    dtype = str(jnp.dtype(self._setup.dtype))
    facts = {
      "weights": {
        name: [str(x.dtype), x.shape, np.asarray(_checksum(x)).tolist()]
        for name, x in sorted(tower.items())
        if not name.startswith(_HEAD)
      },
      "res": model_config.res,
      "dtype": dtype,
      "device": jax.default_backend(),
      "tower": str(model_config.img),
    }
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    tokens = (num_images * model_config.num_image_tokens, model_config.img.width)
    return Folder(self._place / f"{digest}_{tokens[0]}x{tokens[1]}", tokens, dtype, max_bytes)


@jax.jit
def _checksum(x: jax.Array) -> jax.Array:
  """uint32[2] of all bits of an array and their places, however it lies on devices."""
  if jnp.issubdtype(x.dtype, jnp.floating):
    x = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))
  bits = x.astype(jnp.uint32)
  # A scalar has no axis to count along; strides count places in row-major order.
  place, stride = jnp.zeros((), jnp.uint32), 1
  for axis in reversed(range(bits.ndim)):
    place = place + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * np.uint32(
      stride % 2**32
    )
    stride *= bits.shape[axis]

  def mixed(h):
    # The finaliser of MurmurHash3: every bit of the input changes half of the output's.
    h = (h ^ (h >> 16)) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * np.uint32(0xC2B2AE35)
    return h ^ (h >> 16)

  sums = [jnp.sum(mixed(bits ^ mixed(place + np.uint32(seed)))) for seed in (1, 0x9E3779B9)]
  return jnp.stack(sums)


_LEFTOVER_SECS = 3600.0  # What is half written for so long is of a process that was killed.
_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


class Memory:
  """Keeps arrays in this process.

  What comes when it is full is not kept: rows come in a new order every epoch, so to throw out an
  older array for a newer one would gain nothing.

  Its methods may be called from several threads, each of `put` with a key of its own.

  Attributes:
    max_bytes, num_bytes: the most it holds, and what it holds.
  """

  num_broken = 0

  def __init__(self, max_bytes: int):
    self.max_bytes = max_bytes
    self.num_bytes = 0
    self._arrays: dict[str, np.ndarray] = {}
    self._lock = threading.Lock()

  def get(self, key: str) -> np.ndarray | None:
    """The array that was put under the key, not to be written to, or None."""
    return self._arrays.get(key)

  def put(self, key: str, array: np.ndarray) -> bool:
    """Keeps a copy of the array; False when there is no room."""
    with self._lock:
      if key not in self._arrays:
        if self.num_bytes + array.nbytes > self.max_bytes:
          return False
        self._arrays[key] = array.copy()
        self.num_bytes += array.nbytes
      return True

  def limit(self) -> str:
    """Why `put` keeps no more, in words."""
    return _full(self.num_bytes)


class Folder:
  """Keeps arrays of one dtype and shape in a folder, which may be in a bucket, an object for each.

  The bytes that other runs write meanwhile are not counted. Its methods may be called from several
  threads, as those of `Memory`.

  Attributes:
    max_bytes, num_bytes: as of `Memory`, as far as this process knows.
    num_broken: files that did not hold what they should, or could not be read.

  Args:
    shape, dtype: of every array; float32 or bfloat16.

  Raises:
    WorkdirError: the folder cannot be made or read.
  """

  def __init__(self, path: pathlib.Path, shape: tuple[int, ...], dtype: str, max_bytes: int):
    self.max_bytes = max_bytes
    self.num_broken = 0
    self._path, self._shape = path, shape
    self._dtype = errors.pick(_DTYPES, dtype, "dtype of kept arrays")
    self._refusal = ""  # What the disk or the store said when it took nothing more.
    self._lock = threading.Lock()
    try:
      self.num_bytes = _bytes_below(path)
    except OSError as e:
      raise errors.WorkdirError(
        f"train.cache_image_features: the folder {str(self._path)!r} cannot be used:"
        f" {e.strerror or e}."
      ) from e

  def get(self, key: str) -> np.ndarray | None:
    """The array of the key; None when there is none, or none that is whole."""
    num_head = len(self._head(b""))
    num_bytes = num_head + self._dtype.itemsize * math.prod(self._shape)
    content = b""
    try:
      content = atomic_io.read_start(self._file(key), num_bytes + 1)
    except FileNotFoundError:
      return None
    except OSError:
      pass  # It counts as broken.
    data = content[num_head:]
    if len(content) != num_bytes or content[:num_head] != self._head(data):
      with self._lock:
        self.num_broken += 1
      return None
    return np.frombuffer(data, self._dtype).reshape(self._shape)

  def put(self, key: str, array: np.ndarray) -> bool:
    """Writes the array; False when there is no room: here, or by the disk or the store.

    Those are not asked again: a store that is not reached is given up after a minute of trying.
    """
    assert array.shape == self._shape and array.dtype == self._dtype
    data = array.tobytes()
    data = self._head(data) + data
    with self._lock:
      if self._refusal or self.num_bytes + len(data) > self.max_bytes:
        return False
      self.num_bytes += len(data)
    try:
      self._write(self._file(key), data)
    except OSError as e:
      with self._lock:
        self.num_bytes -= len(data)
        self._refusal = e.strerror or str(e)
      return False
    return True

  def limit(self) -> str:
    """Why `put` keeps no more, in words."""
    return f"no more can be written ({self._refusal})" if self._refusal else _full(self.num_bytes)

  def _write(self, path: pathlib.Path, data: bytes) -> None:
    if bucket.is_bucket(path):
      return bucket.write(path, data)
    # Not forced to the disk: what a crash leaves half written has no right checksum.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
      atomic_io.make_folder(path.parent, below=self._path)
      with atomic_io.open_new(partial) as f:
        f.write(data)
      os.replace(partial, path)
    except OSError:
      partial.unlink(missing_ok=True)
      raise

  def _file(self, key: str) -> pathlib.Path:
    return self._path / key[:2] / key

  def _head(self, data: bytes) -> bytes:
    crc32 = f"{zlib.crc32(data):08x}"
    head = {"dtype": self._dtype.name, "shape": list(self._shape), "crc32": crc32}
    return json.dumps(head).encode() + b"\n"


def _bytes_below(path: pathlib.Path) -> int:
  """The bytes of all files in the folders of a folder, which is made; old partial files go."""
  if bucket.is_bucket(path):
    return sum(stat.size for stat in bucket.listing(path).values())
  path.mkdir(parents=True, exist_ok=True)
  num_bytes = 0
  for file in path.glob("*/*"):
    if file.parent.is_symlink():
      continue
    status = file.lstat()
    is_partial = file.name.startswith(".") and file.suffix == ".partial"
    if is_partial and time.time() - status.st_mtime > _LEFTOVER_SECS:
      atomic_io.remove(file)
    else:
      num_bytes += status.st_size
  return num_bytes


def _full(num_bytes: int) -> str:
  return f"no room for more than {num_bytes / 1e9:.2f} GB (train.feature_cache_gb)"
