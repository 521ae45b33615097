"""From a configuration to a run's model, tokenizer, mesh, parameters, loader, steps and length."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging
from jax.sharding import Mesh

from paligemma_jax.checkpoint import hub
from paligemma_jax.checkpoint import load
from paligemma_jax.checkpoint import opening
from paligemma_jax.checkpoint import reader
from paligemma_jax.checkpoint import shared_reading
from paligemma_jax.config import schema
from paligemma_jax.core import errors
from paligemma_jax.core import process
from paligemma_jax.core import trees
from paligemma_jax.data import examples
from paligemma_jax.data import loader
from paligemma_jax.data import tokenizer as tokenizers
from paligemma_jax.models import paligemma
from paligemma_jax.models import variants
from paligemma_jax.multihost import hosts
from paligemma_jax.trainer import progress as progress_lib
from paligemma_jax.trainer import signals
from paligemma_jax.training import loss
from paligemma_jax.training import optimizers
from paligemma_jax.training import sharding
from paligemma_jax.training import state as states
from paligemma_jax.training import step as steps
from paligemma_jax.training import user_functions

DEMO_TOKENIZER = pathlib.Path(__file__).parent.parent / "assets" / "demo" / "tokenizer.model"


@dataclasses.dataclass(frozen=True)
class Setup:
  """What stays the same during a run.

  shapes: {name: ShapeDtypeStruct} of all parameters.
  trainable, frozen: their names; each of `shapes` is in one of them.
  """

  config: ml_collections.ConfigDict
  model_config: variants.ModelConfig
  mesh: Mesh
  shapes: dict[str, Any]
  trainable: tuple[str, ...]
  frozen: tuple[str, ...]

  @functools.cached_property
  def init(self) -> reader.Weights:
    """What `config.init` names, opened once: opening a run's checkpoint reads all its bytes."""
    return opening.open_weights(self.config.init, fresh=fresh(self.config, self.model_config))

  @functools.cached_property
  def tokenizer(self) -> tokenizers.Tokenizer:
    """The tokenizer that `config` names, or that lies beside its initial weights."""
    if self.config.tokenizer:
      return tokenizers.Tokenizer(self.config.tokenizer)
    if self.config.init and self.init.tokenizer:
      return tokenizers.Tokenizer(self.init.tokenizer)
    if self.config.model.variant == "tiny":
      return tokenizers.Tokenizer(DEMO_TOKENIZER)
    raise errors.ConfigError(
      f"No tokenizer lies beside init={self.config.init!r}; put {hub.TOKENIZER} (or"
      " tokenizer.model) there, or set `tokenizer` to its path."
    )

  @property
  def dtype(self) -> Any:
    """Of matmuls, and of the parameters that are frozen."""
    return paligemma.compute_dtype(self.model_config)


def prepare(config: ml_collections.ConfigDict, *, plain: bool = False) -> Setup:
  """Lays out model and mesh, and reads the tokenizer; no parameter is read or made yet.

  Args:
    plain: the model as it is published, to evaluate any weights: without adapters (those of a run
      are in its matrices when it is opened), nothing quantized, nothing that trains.

  Raises:
    ConfigError: sizes, files, regexes or devices that do not fit together.
  """
  setup = lay_out(config, plain=plain)
  tokenizer = setup.tokenizer
  if tokenizer.vocab_size > setup.model_config.llm.vocab_size:
    raise errors.ConfigError(
      f"The tokenizer {tokenizer.path!r} has {tokenizer.vocab_size} ids, but the model's token"
      f" table has {setup.model_config.llm.vocab_size} rows; use the tokenizer that belongs to the"
      " weights, or set model.vocab_size."
    )
  return setup


def lay_out(
  config: ml_collections.ConfigDict,
  devices: Sequence[jax.Device] | None = None,
  *,
  plain: bool = False,
) -> Setup:
  """What `prepare` makes, without reading a file; `devices`, by default all, need not exist.

  Raises:
    ConfigError: sizes, regexes or devices that do not fit together.
  """
  model_config = variants.of_run(config.model.to_dict(), config.lora.to_dict())
  if plain:
    model_config = model_config.plain()
  else:
    fresh(config, model_config)  # Its regexes are checked before a file is read.
  mesh = sharding.make_mesh(config.mesh, devices)
  shapes = paligemma.param_shapes(model_config)
  trainable, frozen = ((), tuple(shapes)) if plain else optimizers.split(shapes, config.optim)
  return Setup(config, model_config, mesh, shapes, tuple(trainable), tuple(frozen))


def initial_params(setup: Setup, log: Callable[[str], None]) -> dict[str, jax.Array]:
  """All parameters on the mesh: read from `config.init`, or random from the seed when it is ''."""
  places = sharding.param_shardings(setup.shapes, setup.mesh)
  dtypes = states.param_dtypes(setup.shapes, setup.trainable, setup.dtype)
  key = jax.random.key(setup.config.seed)

  def make(model_config, names, key):
    params = paligemma.init_params(model_config, key)
    return {name: params[name].astype(dtypes(name)) for name in names}

  if not setup.config.init:
    log(f"initial weights: random, seed {setup.config.seed}")
    make_all = functools.partial(make, setup.model_config, setup.shapes)
    return jax.jit(make_all, out_shardings=places)(key)
  shapes = paligemma.param_shapes(setup.model_config.plain())
  new = fresh(setup.config, setup.model_config)
  _check_new(setup, new)
  log(f"initial weights: {setup.init.path}")
  is_quantized = bool(setup.model_config.quantize)
  quantized = functools.partial(load.repack, setup.model_config) if is_quantized else None
  params = load.load_params(
    setup.init,
    {name: shape for name, shape in shapes.items() if name not in new},
    dtype=dtypes,
    shardings=places,
    fill=shared_reading.of_hosts(setup.mesh),
    log=log,
    repack=quantized,
  )
  if new:
    log(f"initial weights: fresh (init_fresh, init_only): {', '.join(new)}")
    make_new = functools.partial(make, setup.model_config.plain(), new)
    params |= jax.jit(make_new, out_shardings={name: places[name] for name in new})(key)
  if setup.model_config.lora.rank:
    adapters = functools.partial(paligemma.fresh_adapters, setup.model_config)
    names = setup.shapes.keys() - params.keys()
    made = jax.jit(adapters, out_shardings={name: places[name] for name in names})
    params.update(made(params, key))
  return params


def _check_new(setup: Setup, new: Collection[str]) -> None:
  if quantized := sorted(set(new) - setup.shapes.keys()):
    raise errors.ConfigError(
      f"{quantized[0]} starts new (init_fresh, init_only), but it is quantized"
      f" (model.quantize={setup.model_config.quantize!r}) and would not train; leave it out of"
      " model.quantize_targets."
    )
  if idle := sorted(set(new) - set(setup.trainable)):
    logging.warning(
      "%d of the %d parameters that start new do not train (%s)", len(idle), len(new), idle[0]
    )


def fresh(config: ml_collections.ConfigDict, model_config: variants.ModelConfig) -> list[str]:
  """The parameters, adapters aside, that start new although there is an `init`, sorted.

  Raises:
    ConfigError: a regex of init_fresh or init_only matches none of the names, or there is no init.
  """
  asked = [key for key in ("init_fresh", "init_only") if config[key]]
  if not asked:
    return []
  if not config.init:
    raise errors.ConfigError(f"{asked[0]} is set, but without init all parameters start new.")
  names = paligemma.param_shapes(model_config.plain())
  found = trees.matches(config.init_fresh, names, "init_fresh")
  if config.init_only:
    found |= set(names) - trees.matches(config.init_only, names, "init_only")
  return sorted(found)


def optimizer(setup: Setup, total: int, num_rows: int) -> optimizers.Optimizer:
  """The optimizer of a run of `total` steps over epochs of `num_rows` rows."""
  shapes = {name: setup.shapes[name] for name in setup.trainable}
  places = sharding.param_shardings(shapes, setup.mesh)
  return optimizers.make(
    setup.config.optim,
    {n: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=places[n]) for n, s in shapes.items()},
    total,
    names=setup.shapes,
    batch_size=setup.config.train.batch_size,
    num_examples=num_rows,
  )


def abstract_state(setup: Setup, optimizer: optimizers.Optimizer) -> states.TrainState:
  """The run's state as ShapeDtypeStructs with shardings; nothing is allocated."""
  return states.abstract(setup.shapes, setup.trainable, optimizer, setup.mesh, dtype=setup.dtype)


def initial_state(
  setup: Setup, optimizer: optimizers.Optimizer, log: Callable[[str], None]
) -> states.TrainState:
  """The run's state at step 0, on the mesh."""
  params = states.owned(initial_params(setup, log))
  return states.make(params, setup.trainable, optimizer, setup.mesh, dtype=setup.dtype)


def train_step(
  setup: Setup, optimizer: optimizers.Optimizer, state: states.TrainState
) -> Callable[..., Any]:
  """The compiled step of the run; `state` may be abstract. See `training.step`."""
  fn = setup.config.train.loss
  if fn is None:
    token_loss = loss.cross_entropy(setup.config.optim.label_smoothing)
  else:
    token_loss = loss.own(user_functions.token_loss(fn, setup.model_config.llm.vocab_size))
  return steps.make_train_step(
    setup.model_config,
    optimizer,
    state,
    setup.mesh,
    token_loss=token_loss,
    grad_accum_steps=setup.config.train.grad_accum_steps,
    seed=setup.config.seed,
  )


def train_loader(
  setup: Setup, rows: Any, on_bad_row: loader.OnBadRow, *, known_bad: Iterable[int]
) -> loader.TrainLoader:
  """The batches of the run, as its config says; arguments as in `data.loader`."""
  train = setup.config.train
  if jax.process_index() == 0:
    for warning in examples.warnings(rows, train.pp, setup.config.evals):
      logging.warning("%s", warning)
  return loader.TrainLoader(
    rows,
    train.pp,
    setup.tokenizer,
    batch_size=train.batch_size,
    text_len=train.text_len,
    overflow=train.overflow,
    shuffle=train.shuffle,
    on_bad_row=on_bad_row,
    prefetch=train.prefetch,
    known_bad=sorted(known_bad),
    **reading(setup.config),
  )


def reading(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The arguments with which `data.loader` reads rows to train on and rows to evaluate on alike."""
  names = ("buckets", "bad_rows", "num_threads", "num_workers", "stall_secs")
  share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
  return {name: config.train[name] for name in names} | share | {"seed": config.seed}


def without_recomputation(setup: Setup) -> Setup:
  """The same run without rematerialization: its operations are counted, it is not run."""
  return dataclasses.replace(
    setup, model_config=dataclasses.replace(setup.model_config, remat="none", attention="plain")
  )


def describe(setup: Setup, total: int, num_rows: int) -> str:
  """One line on what is about to run."""
  num_trained = sum(math.prod(setup.shapes[name].shape) for name in setup.trainable)
  train = setup.config.train
  return (
    f"{setup.config.model.variant} at {setup.model_config.res} px: {num_params(setup) / 1e6:.1f} M"
    f" parameters, {num_trained / 1e6:.1f} M train; {num_rows} rows x"
    f" {total * train.batch_size / num_rows:.3g} epochs = {total} steps of {train.batch_size} on"
    f" {setup.mesh.size} {setup.mesh.devices.flat[0].device_kind} device(s)"
  )


def warn_of_warmup(setup: Setup, optimizer: optimizers.Optimizer, total: int) -> None:
  """Logs that a run of one or two steps has a learning rate of 0 at half of them or more."""
  if total > 2:
    return
  idle = sum(float(optimizer.schedule(jnp.int32(step))) == 0 for step in range(total))
  if 2 * idle >= total:
    logging.warning(
      "the learning rate is 0 at %d of the %d steps, where warm-up (optim.warmup=%r) begins: they"
      " learn nothing; train longer (train.total), or set optim.schedule_start=1",
      idle,
      total,
      setup.config.optim.warmup,
    )


def num_params(setup: Setup) -> int:
  """Of the model as it is published: quantized codes count as what they stand for, adapters not."""
  shapes = paligemma.param_shapes(setup.model_config.plain())
  return sum(math.prod(leaf.shape) for leaf in shapes.values())


def total_steps(config: ml_collections.ConfigDict, num_rows: int) -> int:
  """The run's length in steps."""
  train = config.train
  return schema.to_steps(
    train.total, "train.total", batch_size=train.batch_size, num_examples=num_rows
  )


class Ready(NamedTuple):
  """A batch on the device and the program that takes it.

  rows: int64[B], what is in it.
  counts: of the loader, up to this batch.
  is_new: this is the program's first batch.
  """

  on_device: dict[str, jax.Array]
  program: Any
  rows: np.ndarray
  counts: dict[str, int]
  is_new: bool


class Stepper:
  """Batches onto the device and through the step: one compiled program per batch shape.

  Args:
    step_fn: as `train_step` makes it.
    start_step: the first batch is that of the step after it.
    fill: `FeatureCache.fill`, where the run keeps image features.
    team: the hosts of the run, which must all run the same program.
  """

  def __init__(
    self,
    setup: Setup,
    step_fn: Any,
    train_loader: loader.TrainLoader,
    start_step: int,
    *,
    fill: Callable[..., loader.Batch] | None,
    stop: signals.StopRequest,
    progress: progress_lib.Progress,
    team: hosts.Team | None = None,
  ):
    self._setup, self._step_fn, self._loader = setup, step_fn, train_loader
    self._batches = train_loader.batches(start_step)
    self._step, self._team = start_step, team
    self._fill, self._stop, self._progress = fill, stop, progress
    self._programs: dict[Any, Any] = {}
    self._first: futures.Future | None = None

  def begin(self, state: states.TrainState) -> None:
    """Reads the first batch and compiles its program in a thread."""

    def make_first() -> tuple[loader.Batch, Any]:
      batch = next(self._batches)
      # With a feature cache the batch is not known here. Several processes compile together, when
      # all of them have reached the step.
      if self._fill is not None or jax.process_count() > 1:
        return batch, None
      on_device = sharding.put(batch, self._setup.mesh)
      num_supervised = loss.num_supervised(batch["mask_loss"])
      return batch, self._step_fn.lower(state, on_device, num_supervised).compile()

    self._first = process.started(make_first)

  def next(self, state: states.TrainState) -> Ready:
    """The next batch.

    Raises:
      signals.Left: a stop was requested.
    """
    program, first = None, self._first
    self._first = None
    with self._progress.part("data" if first is None else "compile"):
      if first is None:
        batch = self._stop.leaving(lambda: next(self._batches))
      else:
        batch, program = self._stop.result(first)
      num_supervised = loss.num_supervised(batch["mask_loss"])
      if self._team:
        batch, num_supervised = self._stop.leaving(lambda: self._agreed(batch, num_supervised))
    counts = dict(self._loader.counts)
    if self._fill is not None:
      batch = self._fill(batch, state.params)
    on_device = sharding.put(batch, self._setup.mesh)
    key = (num_supervised, *(x.shape for x in on_device.values()))
    is_new = key not in self._programs
    if is_new:
      with self._progress.part("compile"):
        self._programs[key] = program or self._stop.leaving(
          lambda: self._step_fn.lower(state, on_device, num_supervised).compile()
        )
    return Ready(on_device, self._programs[key], batch["_row"], counts, is_new)

  def _agreed(self, batch: loader.Batch, num_supervised: int) -> tuple[loader.Batch, int]:
    """The batch and the positions to supervise in the sizes that the hosts' largest need."""
    assert self._team
    self._step += 1
    sizes = self._team.gather(
      "the sizes of a batch",
      [batch["text"].shape[1], num_supervised],
      key=f"batch of step {self._step}",
    )
    length, most = (max(each) for each in zip(*sizes, strict=True))
    return loader.lengthened(batch, length), most

  def run(
    self, state: states.TrainState, batch: Ready
  ) -> tuple[states.TrainState, dict[str, jax.Array]]:
    """Starts the step, which donates `state`; its numbers are there when it is done."""
    with self._progress.part("compile" if batch.is_new else "step"):
      state, sums = batch.program(state, batch.on_device)
      if batch.is_new:
        # Loading a program from the cache ends with its first step, not before.
        jax.block_until_ready(sums)
    return state, sums

  def close(self) -> None:
    """Ends the reading."""
    with contextlib.suppress(ValueError):  # A thread that was left may be running it.
      self._batches.close()
