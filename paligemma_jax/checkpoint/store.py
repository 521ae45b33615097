"""Training state on disk: saved in the background, sealed, kept N and best, restored if intact."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import pathlib
import shutil
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
from absl import logging

from paligemma_jax.checkpoint import manifest
from paligemma_jax.core import atomic_io
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.core import process
from paligemma_jax.training import state as states

_NOTHING, _NONE_INTACT = -1, -2  # Instead of a step: no step was ever saved; all are broken.
_MAX_FAILURES = 3  # Saves in a row that may fail before the run ends.


class Checkpoints:
  """The `checkpoints/` folder of one run, of which this process holds the lock.

  Args:
    folder: made when absent; leftovers of unfinished saves in it are removed.
    keep: how many of the newest steps stay; 0 keeps all.
    best_mode: 'max' or 'min': which value passed to `score` is the best; that step stays too.
    async_save: write and seal in a background thread.
    files: name -> bytes, copied into every step (config.json, tokenizer.model).
    gather: the values of all hosts of (what, value); None for one host alone. Devices take no part
      in it, so that they may be busy.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    *,
    keep: int,
    best_mode: str,
    async_save: bool,
    files: Mapping[str, bytes],
    gather: Callable[[str, Any], list[Any]] | None = None,
  ):
    self._in_bucket = bucket.is_bucket(folder)
    self._folder = bucket.place(folder)
    self._keep = keep
    self._sign = errors.pick({"max": 1.0, "min": -1.0}, best_mode, "ckpt.best_mode")
    self._async_save = async_save
    self._files = dict(files)
    self._gather = gather or (lambda what, value: [value])
    self._leads = jax.process_index() == 0
    self._writer = manifest.checkpointer()
    self._thread: threading.Thread | None = None
    self._failures: list[str] = []  # In a row, oldest first.
    self._is_settled = True
    self._last = (0, "")  # The step that was saved last, and why that failed.
    self._sealed: set[int] = set()  # Steps known to be intact: saved or verified by this process.
    self._scores: dict[int, float] = {}
    self.facts: dict[str, Any] = {}  # What was saved beside the state that `restore` gave.
    self.skipped: dict[int, str] = {}  # Steps that `restore` found broken, and why.
    try:
      if not self._in_bucket:
        self._folder.parent.mkdir(parents=True, exist_ok=True)
      atomic_io.make_folder(self._folder, below=self._folder.parent)
      if self._leads:
        self._clean()
    except OSError as e:
      raise errors.WorkdirError(f"Cannot write to {self._folder}: {e}.") from e

  def save(self, state: states.TrainState, facts: Mapping[str, Any] | None = None) -> None:
    """Saves `state` under its step; the arrays may be donated once this returns.

    A save that fails is logged by step and reason when it fails, leaves no files behind, and does
    not touch older steps; the third failure in a row is raised (here, or by `check` or `wait`).

    Args:
      facts: plain JSON data to keep beside the state.

    Raises:
      NumericsError: the state holds a non-finite number; it is never sealed.
      StateError: saving failed three times in a row.
    """
    self._settle()
    self.check()
    step = int(state.step)
    # Host 0 decides: the others do not know which steps were verified or deleted.
    if self._gather("whether the step is saved", step in self._sealed)[0]:
      return
    if name := states.first_non_finite(state):
      raise errors.NumericsError(f"Not saving step {step}: {name} holds a non-finite number.")
    trainable = _trainable(state)
    seal_facts = {
      "kind": "step",
      "step": step,
      "run": dict(facts or {}),
      "leaves": manifest.table(trainable),
    }
    tmp = self._unfinished(str(step))
    self._is_settled = False
    try:
      seal_facts["base"] = self._save_base(state.frozen)
      self._begin(tmp, trainable)
    except Exception as e:  # Reported by `_failed`; the run goes on from intact state.
      self._failed(step, tmp, e)
    else:
      job = (step, tmp, seal_facts)
      self._thread = threading.Thread(target=self._finish, args=job, name="save")
      self._thread.start()
    if self._thread is None or not self._async_save:
      self._settle()
      self.check()

  def get_ready(self, state: states.TrainState) -> None:
    """Begins to compile what `save` runs: one that is asked for by a signal has no time for it.

    That goes on in the background; the state may be donated meanwhile.
    """
    if jax.process_count() == 1:
      process.started(functools.partial(states.compile_finite_check, state))

  def take_scores(self, scores: Mapping[int, float]) -> None:
    """Notes what steps were worth before a restart, by step."""
    self._scores.update({step: v for step, v in scores.items() if math.isfinite(v)})

  def score(self, step: int, value: float) -> bool:
    """Notes what a step is worth; whether that is better than any step before it.

    Steps that are kept no longer, now that another one is the best, are deleted.
    """
    if not math.isfinite(value):
      return False
    before = [old for s, old in self._scores.items() if s < step]
    is_best = all(self._sign * value > self._sign * old for old in before)
    self._scores[step] = value
    self._join()
    if self._leads and self._sealed:
      self._retire(max(self._sealed))
    return is_best

  def best_step(self) -> int:
    """The saved step with the best score, of equals the latest; 0 when none has a score."""
    known = [step for step in self._scores if step in self._sealed]
    return max(known, key=lambda s: (self._sign * self._scores[s], s), default=0)

  def check(self) -> None:
    """Raises StateError when saves have failed three times in a row; cheap."""
    if len(self._failures) >= _MAX_FAILURES:
      raise errors.StateError(
        f"The state could not be saved {len(self._failures)} times in a row; the last time:"
        f" {self._failures[-1]}"
      )

  def wait(self) -> None:
    """Returns when the last save is sealed on disk, for all processes.

    Raises:
      StateError: that save failed.
    """
    self._settle()
    if self._failures:
      raise errors.StateError(self._failures[-1])

  def close(self) -> None:
    """Lets the running save finish and frees the writer; failures have been logged."""
    self._join()
    self._writer.close()

  def steps(self) -> list[int]:
    """Steps that have a folder, intact or not, oldest first."""
    return sorted(manifest.steps_in(self._folder))

  def verify(self, step: int) -> None:
    """Passes when the step is intact; all its bytes are read, once by this process.

    Raises:
      manifest.Broken: naming the first bad file.
    """
    if step not in self._sealed:
      manifest.verify_step(self._folder / str(step))
      self._sealed.add(step)

  def restore(self, target: states.TrainState) -> states.TrainState | None:
    """The newest intact state on the shardings of `target`, or None when nothing was ever saved.

    A broken step is logged with file and reason and the one before is used.

    Args:
      target: abstract state (state.abstract) that gives shapes, dtypes and shardings.

    Raises:
      StateError: there are steps and none is intact.
      ConfigError: the state is of other parameters or of another optimizer.
    """
    step = self._newest_intact() if self._leads else 0
    step = self._gather("the newest intact step", step)[0]
    if step == _NOTHING:
      return None
    if step == _NONE_INTACT:
      steps = self.steps()
      raise errors.StateError(
        f"None of the {len(steps)} saved steps in {self._folder} is intact: step {steps[-1]}:"
        f" {self.skipped.get(steps[-1], 'see the log of process 0')}. Nothing was changed; to"
        " start anew use another --workdir."
      )
    folder = self._folder / str(step)
    facts = manifest.read_facts(folder)
    found = _read(folder, facts, _trainable(target))
    frozen: dict[str, jax.Array] = {}
    if target.frozen:
      base = self._folder / manifest.BASE
      frozen = _read(base, manifest.read_facts(base), target.frozen)
    self.facts = facts.get("run", {})
    if self._leads:
      logging.info("restored step %d from %s", step, folder)
    read = states.TrainState(
      step=found["step"],
      trainable={name: found[f"trainable/{name}"] for name in target.trainable},
      frozen=frozen,
      opt_state=manifest.rebuild(target.opt_state, found, "opt_state"),
      ema={name: found[f"ema/{name}"] for name in target.ema},
    )
    return states.owned(read)

  def _newest_intact(self) -> int:
    steps = self.steps()
    for step in reversed(steps):
      try:
        self.verify(step)
      except manifest.Broken as e:
        self.skipped[step] = str(e)
        logging.error("skipped step %d of %s: %s", step, self._folder, e)
      else:
        # Older ones are trusted until they are needed: reading all bytes of all steps is slow.
        self._sealed.update(s for s in steps if s < step)
        return step
    return _NONE_INTACT if steps else _NOTHING

  def _save_base(self, frozen: Mapping[str, jax.Array]) -> str:
    """Saves the frozen parameters once; the CRC of their seal, '' when nothing is frozen."""
    if not frozen:
      return ""
    final, tmp = self._folder / manifest.BASE, self._unfinished(manifest.BASE)
    if not (final / manifest.SEAL).exists():
      failure = None
      try:
        self._begin(tmp, frozen)
        self._writer.wait_until_finished()
        facts = {"kind": manifest.BASE, "leaves": manifest.table(frozen)}
        self._seal(tmp, final, facts, fault="base")
      except Exception as e:  # The other hosts must hear of it.
        failure = e
      failures = self._gather("how the frozen parameters were saved", str(failure or ""))
      if failure or any(failures):
        raise failure or OSError(next(text for text in failures if text))
    return manifest.seal_crc(final)

  def _unfinished(self, name: str) -> pathlib.Path:
    """Where `name` is written. A bucket has no renames: there its seal, written last, makes it."""
    return self._folder / (name if self._in_bucket else f"{manifest.TMP}{name}")

  def _begin(self, tmp: pathlib.Path, flat: Mapping[str, jax.Array]) -> None:
    """Begins to write `flat`; returns once it has left the devices, so it may be donated."""

    if self._leads:
      atomic_io.remove(tmp)
    atomic_io.make_folder(tmp, below=self._folder)
    atomic_io.fault_point("state.before_arrays")
    self._writer.save(tmp / manifest.ARRAYS, args=manifest.to_save(flat))

  def _finish(self, step: int, tmp: pathlib.Path, facts: Mapping[str, Any]) -> None:
    """Runs beside training: what is sealed is renamed, what fails is removed and reported."""
    try:
      self._writer.wait_until_finished()
      atomic_io.fault_point("state.after_arrays")
      for name, data in self._files.items() if self._leads else ():
        atomic_io.write_new(tmp / name, data)
      # Only a broken step can stand there: `save` returns early for an intact one.
      self._seal(tmp, self._folder / str(step), facts, fault="state")
      self._failures.clear()
      self._sealed.add(step)
      self._last = (step, "")
      self.skipped.pop(step, None)
    except Exception as e:  # Any failure of a save is the same news: that step is not on disk.
      self._failed(step, tmp, e)
      return
    if self._leads:
      self._retire(step)

  def _seal(
    self, tmp: pathlib.Path, final: pathlib.Path, facts: Mapping[str, Any], *, fault: str
  ) -> None:
    """Seals what is written and gives it its name, if this process leads."""
    if not self._leads:
      return
    manifest.write(tmp, facts)
    atomic_io.fault_point(f"{fault}.after_seal")
    if tmp != final:
      atomic_io.remove(final)
      os.rename(tmp, final)
    atomic_io.sync(self._folder)
    atomic_io.fault_point(f"{fault}.after_rename")

  def _failed(self, step: int, tmp: pathlib.Path, error: Exception) -> None:
    if why := errors.full_disk(error):
      with contextlib.suppress(OSError):
        usage = shutil.disk_usage(self._folder)
        why += f" ({usage.free / 2**20:.1f} MiB of {usage.total / 2**20:.0f} MiB are free)"
    reason = f"{why}." if why else " ".join(str(error).split())[:400] or type(error).__name__
    message = f"saving step {step} to {self._folder} failed: {reason}"
    logging.error("%s", message)
    self._failures.append(message)
    self._last = (step, message)
    # A writer that failed may fail again for ever; what it left would keep a full disk full.
    self._writer = manifest.checkpointer()
    if self._leads:
      for unfinished in (tmp, self._unfinished(manifest.BASE)):
        with contextlib.suppress(OSError):
          if not self._in_bucket or not (unfinished / manifest.SEAL).exists():
            atomic_io.remove(unfinished)

  def _retire(self, newest: int) -> None:
    """Deletes steps that are neither among the newest `keep` nor the best."""
    if not self._keep:
      return
    intact = sorted(s for s in self.steps() if s in self._sealed)
    stay = {self.best_step(), *intact[-self._keep :]}
    for step in self.steps():
      # A broken step newer than this one is evidence until it is written again.
      if step in stay or step > newest:
        continue
      atomic_io.fault_point("state.before_delete")
      try:
        # First so that it no longer exists, also when the deletion is cut short.
        doomed = self._folder / str(step)
        if self._in_bucket:
          atomic_io.remove(doomed / manifest.SEAL)
        else:
          doomed = self._unfinished(f"old-{step}")
          atomic_io.remove(doomed)
          os.rename(self._folder / str(step), doomed)
        atomic_io.remove(doomed)
      except OSError as e:
        logging.error("cannot delete step %d of %s: %s", step, self._folder, e)
      atomic_io.fault_point("state.after_delete")
      self._sealed.discard(step)

  def _clean(self) -> None:
    if self._in_bucket:
      names = bucket.listing(self._folder)
      folders = {name.split("/")[0] for name in names}
      leftovers = [self._folder / f for f in sorted(folders) if f"{f}/{manifest.SEAL}" not in names]
    else:
      leftovers = sorted(self._folder.glob(f"{manifest.TMP}*"))
    if not self.steps():
      # Frozen parameters of a run that saved no step may be another run's: other weights, say.
      leftovers += [self._folder / manifest.BASE]
    for path in filter(lambda path: path.exists(), leftovers):
      logging.info("removing %s, left by a save that did not finish", path)
      atomic_io.remove(path)

  def _settle(self) -> None:
    """Waits for the last save, and makes it a failure on all hosts if it failed on one."""
    self._join()
    if self._is_settled:
      return
    self._is_settled = True
    step, failure = self._last
    failures = self._gather(f"how the save of step {step} went", failure)
    if any(failures) and not failure:
      host = next(i for i, text in enumerate(failures) if text)
      self._failures.append(f"{failures[host]} (on host {host})")
      self._sealed.discard(step)

  def _join(self) -> None:
    if self._thread is not None:
      self._thread.join()
      self._thread = None


def _trainable(state: states.TrainState) -> dict[str, Any]:
  return {
    "step": state.step,
    **{f"trainable/{name}": leaf for name, leaf in state.trainable.items()},
    **manifest.names(state.opt_state, "opt_state"),
    **{f"ema/{name}": leaf for name, leaf in state.ema.items()},
  }


def _read(
  folder: pathlib.Path, facts: Mapping[str, Any], targets: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  manifest.check_leaves(folder, facts["leaves"], manifest.table(targets))
  return manifest.restore(folder / manifest.ARRAYS, targets)
