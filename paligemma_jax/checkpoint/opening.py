"""Opens weights of any kind, a training run among them, and says which model they are of."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

import jax
import ml_dtypes
import numpy as np
from absl import logging

from paligemma_jax.checkpoint import hf
from paligemma_jax.checkpoint import hub
from paligemma_jax.checkpoint import load
from paligemma_jax.checkpoint import manifest
from paligemma_jax.checkpoint import npz
from paligemma_jax.checkpoint import peft
from paligemma_jax.checkpoint import peft_export
from paligemma_jax.checkpoint import reader
from paligemma_jax.config import load as configs
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.core import strict_json
from paligemma_jax.models import linear
from paligemma_jax.models import lora
from paligemma_jax.models import param_table
from paligemma_jax.models import variants

T = TypeVar("T")
_BASE = ":base="  # Between a directory of PEFT adapters and what they are adapters of.
_TRIES = 3  # Of reading a run whose steps come and go.


def open_weights(
  path: str | os.PathLike, *, base: str | os.PathLike = "", fresh: Collection[str] = ()
) -> reader.Weights:
  """Opens weights of any kind and checks all headers; no data is read.

  `path` is a run or one of its steps (its newest intact one counts), a big_vision npz, a Hugging
  Face directory, one that `save` wrote, one of PEFT, or a name, see `hub.find_released`.
  A run's sizes are those of its config, with softcaps and all that shapes cannot tell. Adapters of
  PEFT are merged into their base; "DIRECTORY:base=PATH" names another one than they do.

  Args:
    base: the same as a keyword.
    fresh: names that are not read, and may be missing or of any shape; the result has them not.

  Raises:
    CheckpointError: nothing at `path`, or damaged, hostile or unfit files.
    StateError: a run without any intact step.
  """
  path, _, named = str(path).partition(_BASE)
  path, base = hub.find_released(path), str(base or named)
  if peft.is_adapter(path):
    beneath = hub.find_released(base or peft.base_of(path))
    if peft.is_adapter(beneath):
      raise errors.CheckpointError(f"{path}: its base {beneath} is a directory of adapters, too.")
    if fresh:
      raise errors.ConfigError(
        f"{path}: init_fresh and init_only need whole weights, not adapters."
      )
    return peft.open_adapter(path, open_weights(beneath))
  if base:
    raise errors.ConfigError(f"{path}: is no directory of PEFT adapters, so base={base!r} is odd.")
  weights = _open(path, fresh)
  entries = {name: entry for name, entry in weights.entries.items() if name not in fresh}
  return dataclasses.replace(weights, entries=entries)


def _open(path: pathlib.Path, fresh: Collection[str]) -> reader.Weights:
  """Opens what is no directory of adapters, by its kind."""
  if is_run(path):
    run = open_run(path)
    if "model" not in run.config:
      return run.weights
    return dataclasses.replace(run.weights, sizes=sizes_of(model_of(run.config)))
  if not path.is_dir():
    if path.suffix == ".safetensors":
      raise errors.CheckpointError(f"{path}: give the directory, its config.json is needed too.")
    return npz.open_npz(path, fresh=fresh)
  if (path / npz.PARAMS).exists():
    return npz.open_native(path, fresh)
  if (path / "config.json").exists():
    return hf.open_hf(path, fresh)
  raise errors.CheckpointError(
    f"{path}: is no directory of weights; expected a Hugging Face one (config.json and"
    " *.safetensors) or one that `save` wrote (config.json, params.npz and SEAL.json)."
  )


def read_steadily(path: str | os.PathLike, read: Callable[[], T]) -> T:
  """What `read` makes of the weights at `path`, once more where a run changed them meanwhile.

  A run that is under way deletes its older steps, also the one that is being read. Several hosts
  read together, so none of them begins again.
  """
  if jax.process_count() > 1:
    return read()
  place = hub.find_released(str(path).partition(_BASE)[0])
  for _ in range(_TRIES):
    before = step_folders(place)
    try:
      return read()
    except Exception as e:
      if step_folders(place) == before:
        raise
      logging.info("%s changed while it was read, so it is read again: %s", path, e)
  return read()


def open_base(path: str | os.PathLike) -> reader.Weights:
  """What the adapters of a run belong to: its weights without them, with nothing quantized.

  Raises:
    CheckpointError: `path` is no run, or it has no adapters.
  """
  run = _run_with_adapters(path)
  plain = {name: e for name, e in run.tuned.entries.items() if not lora.is_adapter(name)}
  model_config = model_of(run.config)
  without = dataclasses.replace(run.tuned, entries=plain)
  return dataclasses.replace(load.as_published(model_config, without), sizes=sizes_of(model_config))


def save_peft(
  path: str | os.PathLike,
  to: str | os.PathLike,
  *,
  base: str = "",
  log: Callable[[str], None] = logging.warning,
) -> pathlib.Path:
  """Writes the adapters of a run, or of one step of it, as a PEFT directory; gives that back.

  What else trained is in it, too.

  Args:
    base: the directory of transformers, or the hub's id, that they are adapters of; '': the one
      that the run began with.
    log: is called with each sentence that users of the adapters should know.

  Raises:
    CheckpointError: `path` is no run or has no adapters, or `to` exists.
  """
  run = _run_with_adapters(path)
  adapters = {}
  for name in param_table.MATRICES:
    parts = {part: linear.beside(name, part) for part in linear.ADAPTER}
    found = {p: run.tuned.read(n) for p, n in parts.items() if n in run.tuned.entries}
    if found:
      adapters[name] = found
  model_config = model_of(run.config)
  sizes = sizes_of(model_config)
  base, _, revision = (base or _base_of(str(run.config.get("init") or ""))).partition("@")
  remarks = _remarks(model_config, base)
  for sentence in remarks:
    log(f"{path}: {sentence}")
  trained = {name for name in run.trained if not lora.is_adapter(name)}
  param_table.only_published({*adapters, *trained}, str(to))
  whole = sorted(peft_export.modules_of(trained, sizes))
  return peft_export.save_peft(
    to,
    adapters,
    sizes,
    model_config.lora,
    trained={name: run.weights.read(name) for name in whole},
    base=base,
    revision=revision,
    remarks=" ".join(remarks),
  )


def _run_with_adapters(path: str | os.PathLike) -> Run:
  if not is_run(path):
    raise errors.CheckpointError(f"{path}: is no run of ours; only those hold adapters.")
  run = open_run(path)
  if not any(map(lora.is_adapter, run.tuned.entries)):
    raise errors.CheckpointError(f"{path}: the run has no adapters.")
  return run


def _base_of(init: str) -> str:
  """What transformers opens of the weights that a run began with: a directory, an id, or ''."""
  path = bucket.path(init)
  if init and (path / "config.json").exists() and not (path / "params.npz").exists():
    return str(path.absolute())
  return init if hub.looks_like_an_id(init) else hub.hub_id(init)


def _remarks(model_config: variants.ModelConfig, base: str) -> list[str]:
  """What to know of the base of a run's adapters."""
  remarks = [f"The base is a model at {model_config.res} px."]
  if not base:
    remarks = [
      "adapter_config.json names no base, because the run's init is nothing that transformers"
      f" opens; it is a model at {model_config.res} px. Write it with"
      " `--format hf --without_adapters` and name it with `--base`."
    ]
  if model_config.llm.post_norms:
    llm = model_config.llm
    remarks.append(
      f"Its config.json must have the softcaps that the run had: {llm.attn_softcap:g} (attention),"
      f" {llm.final_softcap:g} (final); 0 is null."
    )
  if model_config.quantize:
    remarks.append(
      f"The run's base was quantized to {model_config.quantize}, so the adapters belong to that"
      " one; over the base in full precision answers differ a little. `--format hf"
      " --without_adapters` writes the base as the run saw it."
    )
  return remarks


def config_of(
  sizes: Mapping[str, Any],
  *,
  dtype: str,
  res: int = 0,
  overrides: Mapping[str, Any] | None = None,
) -> variants.ModelConfig:
  """The ModelConfig of sizes that weights came with (`Weights.sizes`).

  Args:
    dtype: of matmuls.
    res: pixels; 0 keeps the weights' own.
    overrides: sizes to change, as {"llm.final_softcap": 30.0}.

  Raises:
    ConfigError: an unknown size or dtype, or sizes that do not fit together.
  """
  towers = {"img": dict(sizes["img"]), "llm": dict(sizes["llm"])}
  for key, value in (overrides or {}).items():
    tower, _, name = key.partition(".")
    found = errors.pick(towers, tower, "tower in overrides")
    errors.pick(found, name, f"size in overrides {tower}")
    found[name] = value
  return variants.ModelConfig(
    img=variants.Vit(**towers["img"]),
    llm=variants.Gemma(**towers["llm"]),
    res=res or sizes["res"],
    dtype=dtype,
  )


def sizes_of(config: variants.ModelConfig) -> dict[str, Any]:
  """The inverse of `config_of`."""
  towers = {"img": dataclasses.asdict(config.img), "llm": dataclasses.asdict(config.llm)}
  return {**towers, "res": config.res}


CONFIG = "config.json"
TOKENIZER = "tokenizer.model"
_RESULTS = ("trainable/", "ema/")  # Averages, where a run keeps them, are what it gives.


@dataclasses.dataclass(frozen=True)
class Run:
  """An intact step of a run.

  weights: its parameters under the published names, adapters in their matrices, kind "run"; what
    checkpoint.load.load_params takes.
  tuned: its parameters as it trains them, with adapters and quantized matrices, if there are any.
  config: the run's config as plain data (config.load.from_plain makes it a config).
  trained: the names in `tuned` of what trained.
  """

  weights: reader.Weights
  tuned: reader.Weights
  config: Mapping[str, Any]
  trained: frozenset[str]


def is_run(path: str | os.PathLike) -> bool:
  """True for a workdir, a checkpoints folder, or a step folder of ours."""
  try:
    return bool(step_folders(bucket.path(path)))
  except OSError:
    return False


def step_folders(path: pathlib.Path) -> list[pathlib.Path]:
  """Step folders in `path`, newest first; `path` itself when it is one."""
  if (path / manifest.ARRAYS).is_dir() and path.name.isdecimal():
    return [path]
  for folder in (path / "checkpoints", path):
    if folder.is_dir() and (steps := manifest.steps_in(folder)):
      return [folder / str(step) for step in sorted(steps, reverse=True)]
  return []


def open_run(path: str | os.PathLike) -> Run:
  """Opens the newest intact step in `path`; all bytes are checked against the seal first.

  Args:
    path: a workdir, its `checkpoints/`, or one step in it (then that one, or an error).

  Raises:
    CheckpointError: no step there.
    StateError: steps, but none intact; names the newest one's bad file.
  """
  path = bucket.place(path)
  folders = step_folders(path)
  if not folders:
    raise errors.CheckpointError(
      f"{path}: no saved step here; give a workdir or checkpoints/<step>."
    )
  reasons = []
  for folder in folders:
    try:
      facts = manifest.verify_step(folder)
    except manifest.Broken as e:
      reasons.append(f"step {folder.name}: {e}")
      logging.error("skipped %s: %s", folder, e)
      continue
    return _open_step(folder, facts)
  raise errors.StateError(f"{path}: no intact step of {len(folders)}; {reasons[0]}.")


def _open_step(folder: pathlib.Path, facts: Mapping[str, Any]) -> Run:
  base = folder.parent / manifest.BASE
  places: dict[str, tuple[pathlib.Path, str]] = {}  # Published name -> (orbax folder, name there).
  entries: dict[str, reader.Entry] = {}
  tables = [(folder, prefix, facts["leaves"]) for prefix in _RESULTS]
  if facts["base"]:
    tables.append((base, "", manifest.read_facts(base)["leaves"]))
  for where, prefix, table in tables:
    with _readable(str(where / manifest.ARRAYS)):
      found = manifest.described(where / manifest.ARRAYS)
    for stored, (dtype, shape) in table.items():
      if stored.startswith(prefix):
        name = stored.removeprefix(prefix)
        places[name] = (where / manifest.ARRAYS, stored)
        entries[name] = reader.Entry(tuple(shape), _dtype(dtype, folder, name))
        _check(found.get(stored), entries[name], f"{where / manifest.ARRAYS}: {stored}")

  def restore(targets: Mapping[str, Any]) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for folder in dict.fromkeys(places[name][0] for name in targets):  # On all hosts in one order.
      mine = {name: places[name][1] for name in targets if places[name][0] == folder}
      with _readable(str(folder)):
        read = manifest.restore(folder, {mine[name]: targets[name] for name in mine})
      arrays |= {name: read[stored] for name, stored in mine.items()}
    return {name: arrays[name] for name in targets}

  trained = frozenset(name for name, (where, _) in places.items() if where.parent == folder)
  entries = dict(sorted(entries.items()))
  config = _config(folder)
  tuned = reader.Weights(
    path=folder,
    kind="run",
    entries=entries,
    sizes={},
    tokenizer=folder / TOKENIZER if (folder / TOKENIZER).exists() else None,
    blocks=lambda name, fill=None: iter((_read(*places[name], entries[name]),)),
    restore=restore,
  )
  weights = tuned if load.is_published(entries) else load.as_published(model_of(config), tuned)
  # Parameters that a fork of the model added have no row in the table; `load_params` checks them.
  shapes = {n: e.shape for n, e in weights.entries.items() if n in param_table.TABLE}
  sizes = param_table.sizes_of(shapes, str(folder))
  return Run(dataclasses.replace(weights, sizes=sizes), tuned, config, trained)


def model_of(config: Mapping[str, Any]) -> variants.ModelConfig:
  """The ModelConfig of a run's configuration as plain data, of this version or an older one."""
  full = configs.from_plain({k: config[k] for k in ("model", "lora") if k in config}, "the run")
  return variants.of_run(full.model.to_dict(), full.lora.to_dict())


def _config(folder: pathlib.Path) -> dict[str, Any]:
  try:
    return strict_json.read_object(folder / CONFIG)
  except FileNotFoundError:
    return {}
  except (OSError, strict_json.Malformed) as e:
    raise errors.StateError(f"Cannot read {folder / CONFIG}: {strict_json.reason(e)}.") from None


def _read(folder: pathlib.Path, stored: str, entry: reader.Entry) -> np.ndarray:
  """One array, which must be what the seal says."""
  with _readable(f"{folder}: {stored}"):
    array = manifest.read_one(folder, stored)
  # By its own description it may be a plain number.
  parts = getattr(array, "shape", None)
  _check((getattr(array, "dtype", None), parts, parts), entry, f"{folder}: {stored}")
  return array


@contextlib.contextmanager
def _readable(what: str) -> Iterator[None]:
  """A StateError of what orbax and tensorstore raise on a folder that they did not write."""
  try:
    yield
  except Exception as e:
    why = " ".join(str(e).split())[:200]
    raise errors.StateError(f"{what} cannot be read: {type(e).__name__}: {why}.") from None


def _check(found: tuple[Any, Any, Any] | None, entry: reader.Entry, what: str) -> None:
  """StateError unless an array is what the seal says, by its own description.

  Without this, before it is read, a few bytes could ask for more memory than there is, which ends
  the process.
  """
  dtype, shape, parts = found or (None, None, ())
  if (dtype, shape) != (entry.dtype, entry.shape):
    raise errors.StateError(
      f"{what} is {dtype} {str(shape)[:100]}, but sealed as {entry.dtype} {entry.shape}."
    )
  if len(parts) != len(entry.shape) or any(np.array(parts) > np.maximum(entry.shape, 1)):
    raise errors.StateError(
      f"{what} has parts of {str(parts)[:100]}, more than all of {entry.shape}."
    )


def _dtype(name: str, folder: pathlib.Path, parameter: str) -> np.dtype:
  try:
    dtype = np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)
  except (TypeError, ValueError, SyntaxError):
    dtype = np.dtype(object)
  if dtype.hasobject or dtype.shape or dtype.names:
    raise errors.StateError(f"{folder}: {parameter} is sealed with the unknown dtype {name!r}.")
  return dtype
