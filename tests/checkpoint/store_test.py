"""Saved state: what comes back is what was saved, or the step before it, or an error."""

import json
import os
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paligemma_jax.checkpoint import manifest
from paligemma_jax.checkpoint import opening
from paligemma_jax.checkpoint import store
from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from tests.checkpoint import toy_steps
from tests.training import toy_state


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
  """A folder with steps 1 and 2, to be copied; and their states."""
  folder = tmp_path_factory.mktemp("two") / "checkpoints"
  opened, history = toy_steps.saved(folder, 2)
  opened.close()
  return folder, history


def _copy(two_steps, tmp_path):
  shutil.copytree(two_steps[0], tmp_path / "checkpoints")
  return tmp_path / "checkpoints"


@pytest.mark.parametrize("async_save", [True, False])
def test_what_comes_back_is_what_was_saved(tmp_path, async_save):
  opened, history = toy_steps.saved(tmp_path / "checkpoints", 1, async_save=async_save)
  opened.close()
  again = toy_steps.opened(tmp_path / "checkpoints")
  toy_state.assert_equal(again.restore(toy_state.target()), history[0])
  again.close()


def test_a_donated_state_is_saved_as_it_was(tmp_path):
  opened, state = toy_steps.opened(tmp_path), toy_state.advance(toy_state.make())
  want = jax.tree.map(np.array, state)
  overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)
  opened.save(state)
  jax.block_until_ready(overwrite(state))
  opened.wait()
  toy_state.assert_equal(opened.restore(toy_state.target()), want)
  opened.close()


def test_nothing_saved_restores_nothing(tmp_path):
  opened = toy_steps.opened(tmp_path / "checkpoints")
  assert opened.restore(toy_state.target()) is None
  opened.close()


def _largest(folder):
  return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def _damages(path):
  data = path.read_bytes()
  yield "deleted", path.unlink
  yield "halved", lambda: path.write_bytes(data[: len(data) // 2])
  yield "emptied", lambda: path.write_bytes(b"")
  flipped = bytearray(data)
  flipped[len(data) // 2] ^= 16
  yield "flipped", lambda: path.write_bytes(bytes(flipped))
  yield "longer", lambda: path.write_bytes(data + b"\0")


def test_every_damage_to_every_file_is_found(two_steps, tmp_path):
  folder = _copy(two_steps, tmp_path)
  num = 0
  for path in sorted(p for p in (folder / "2").rglob("*") if p.is_file()):
    data = path.read_bytes()
    for what, damage in _damages(path):
      damage()
      if path.exists() and path.read_bytes() == data:
        continue  # Half of an empty file.
      with pytest.raises(manifest.Broken, match=path.name):
        manifest.verify_step(folder / "2")
        pytest.fail(f"{path} {what} was not found")
      path.write_bytes(data)
      num += 1
  manifest.verify_step(folder / "2")
  assert num > 50


def test_single_bit_flips_anywhere_in_the_seal_are_found(two_steps, tmp_path):
  folder = _copy(two_steps, tmp_path) / "2"
  data = (folder / manifest.SEAL).read_bytes()
  for bit in np.random.default_rng(0).integers(0, 8 * len(data), 200):
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << (bit % 8)
    (folder / manifest.SEAL).write_bytes(bytes(flipped))
    with pytest.raises(manifest.Broken):
      manifest.verify(folder)


def test_a_file_besides_those_sealed_is_found(two_steps, tmp_path):
  folder = _copy(two_steps, tmp_path)
  (folder / "2" / "state" / "more").write_bytes(b"x")
  with pytest.raises(manifest.Broken, match=r"more is not in the seal"):
    manifest.verify_step(folder / "2")


def test_a_link_in_place_of_a_file_is_found(two_steps, tmp_path):
  folder = _copy(two_steps, tmp_path)
  (folder / "2" / "config.json").unlink()
  (folder / "2" / "config.json").symlink_to(folder / "1" / "config.json")
  with pytest.raises(manifest.Broken, match=r"config\.json is no regular file"):
    manifest.verify_step(folder / "2")


def test_a_step_under_another_steps_name_is_found(two_steps, tmp_path):
  folder = _copy(two_steps, tmp_path)
  os.rename(folder / "2", folder / "3")
  with pytest.raises(manifest.Broken, match="of another folder"):
    manifest.verify_step(folder / "3")


@pytest.mark.parametrize("file", ["SEAL.json", "config.json", "data"])
def test_a_broken_step_is_skipped_for_the_one_before(two_steps, tmp_path, file, caplog):
  folder = _copy(two_steps, tmp_path)
  path = folder / "2" / file
  if file == "data":
    path = _largest(folder / "2" / "state")
  data = bytearray(path.read_bytes())
  data[len(data) // 3] ^= 1
  path.write_bytes(bytes(data))
  opened = toy_steps.opened(folder)
  toy_state.assert_equal(opened.restore(toy_state.target()), two_steps[1][0])
  assert set(opened.skipped) == {2} and path.name in opened.skipped[2]
  assert "skipped step 2" in caplog.text and path.name in caplog.text
  # Training goes on from step 1 and writes step 2 anew.
  opened.save(toy_state.advance(two_steps[1][0]))
  opened.wait()
  toy_state.assert_equal(opened.restore(toy_state.target()), two_steps[1][1])
  opened.close()


def test_no_intact_step_is_an_error_and_changes_nothing(two_steps, tmp_path):
  folder = _copy(two_steps, tmp_path)
  for step in ("1", "2"):
    (folder / step / manifest.SEAL).unlink()
  before = sorted(folder.rglob("*"))
  opened = toy_steps.opened(folder)
  with pytest.raises(errors.StateError, match=r"None of the 2 saved steps.*step 2: SEAL.json"):
    opened.restore(toy_state.target())
  opened.close()
  assert sorted(folder.rglob("*")) == before


def test_damaged_frozen_parameters_break_the_steps_that_need_them(two_steps, tmp_path):
  folder = _copy(two_steps, tmp_path)
  path = _largest(folder / "base" / "state")
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(manifest.Broken, match=r"frozen parameters in ../base: .* 1 bytes short"):
    manifest.verify_step(folder / "2")


def test_frozen_parameters_are_stored_once(two_steps):
  folder, _ = two_steps
  assert sorted(p.name for p in folder.iterdir()) == ["1", "2", "base"]
  leaves = manifest.read(folder / "2")[0]["leaves"]
  assert not any("img/" in name for name in leaves)
  assert set(manifest.read(folder / "base")[0]["leaves"]) == {"img/head/bias", "img/head/kernel"}


def test_the_newest_and_the_best_are_kept(tmp_path):
  opened, state = toy_steps.opened(tmp_path, keep=2), toy_state.make()
  better = []
  for step, score in enumerate((0.1, 0.9, 0.3, float("nan"), 0.5), 1):
    state = toy_state.advance(state)
    opened.save(state)  # What it is worth is known only after that.
    better.append(opened.score(step, score))
  opened.wait()
  assert opened.steps() == [2, 4, 5]
  assert better == [True, True, False, False, False] and opened.best_step() == 2
  opened.close()


def test_the_best_may_be_the_smallest_and_is_known_after_a_restart(tmp_path):
  opened, state = toy_steps.opened(tmp_path, keep=1, best_mode="min"), toy_state.make()
  for step, score in enumerate((0.4, 0.2, 0.3), 1):
    state = toy_state.advance(state)
    opened.save(state)
    opened.score(step, score)
  opened.wait()
  assert opened.steps() == [2, 3]
  opened.close()
  again = toy_steps.opened(tmp_path, keep=1, best_mode="min")
  state = again.restore(toy_state.target())
  again.take_scores({1: 0.4, 2: 0.2, 3: 0.3})
  again.save(toy_state.advance(state))
  assert not again.score(4, 0.25)
  again.wait()
  assert again.steps() == [2, 4] and again.best_step() == 2
  again.close()


def test_a_better_step_replaces_the_best_at_once(tmp_path):
  opened, state = toy_steps.opened(tmp_path, keep=1), toy_state.make()
  for step, score in enumerate((0.1, 0.5), 1):
    state = toy_state.advance(state)
    opened.save(state)
    assert opened.score(step, score)
  opened.wait()
  assert opened.steps() == [2]
  opened.close()


def test_what_was_saved_beside_a_state_comes_back(tmp_path):
  opened, state = toy_steps.opened(tmp_path), toy_state.advance(toy_state.make())
  opened.save(state, {"line": [["loss", 0.5]]})
  opened.wait()
  opened.close()
  again = toy_steps.opened(tmp_path)
  again.restore(toy_state.target())
  assert again.facts == {"line": [["loss", 0.5]]}
  again.close()


def test_keep_0_keeps_all(tmp_path):
  opened, _ = toy_steps.saved(tmp_path, 4, keep=0)
  assert opened.steps() == [1, 2, 3, 4]
  opened.close()


def test_a_non_finite_state_is_never_sealed(tmp_path):
  opened, state = toy_steps.opened(tmp_path), toy_state.advance(toy_state.make())
  moment = state.opt_state["rule"].nu["llm/final_norm/scale"]
  state.opt_state["rule"].nu["llm/final_norm/scale"] = moment.at[3].set(jnp.inf)
  with pytest.raises(errors.NumericsError, match=r"step 1: .*nu/llm/final_norm/scale"):
    opened.save(state)
  opened.close()
  assert opened.steps() == []


def test_a_failed_save_is_reported_leaves_nothing_and_the_next_one_works(
  tmp_path, monkeypatch, caplog
):
  opened, history = toy_steps.saved(tmp_path, 1)
  monkeypatch.setattr(atomic_io, "_visits", atomic_io.collections.Counter())
  monkeypatch.setenv("PJ_FAULT", "state.after_arrays:enospc@1")
  state = toy_state.advance(history[0])
  opened.save(state)
  with pytest.raises(errors.StateError, match=r"saving step 2 .*no space left"):
    opened.wait()
  assert "saving step 2" in caplog.text
  assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "base"]
  toy_steps.assert_next_save_works(opened, history[0], state)


def test_three_failed_saves_in_a_row_end_the_run(tmp_path, monkeypatch):
  opened, state = toy_steps.opened(tmp_path, async_save=False), toy_state.make()
  for num in (1, 2, 3):
    monkeypatch.setattr(atomic_io, "_visits", atomic_io.collections.Counter())
    monkeypatch.setenv("PJ_FAULT", "state.after_seal:enospc")
    state = toy_state.advance(state)
    if num < 3:
      opened.save(state)
  with pytest.raises(errors.StateError, match=r"3 times in a row; .*saving step 3"):
    opened.save(state)
  opened.close()


def test_leftovers_of_a_killed_save_are_removed(two_steps, tmp_path):
  folder = _copy(two_steps, tmp_path)
  shutil.copytree(folder / "2", folder / ".tmp-3")
  opened = toy_steps.opened(folder)
  assert sorted(p.name for p in folder.iterdir()) == ["1", "2", "base"]
  opened.close()


def test_frozen_parameters_without_a_step_are_not_trusted(two_steps, tmp_path):
  folder = _copy(two_steps, tmp_path)
  shutil.rmtree(folder / "1")
  shutil.rmtree(folder / "2")
  opened = toy_steps.opened(folder)
  assert list(folder.iterdir()) == []
  opened.close()


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path):
  (tmp_path / "checkpoints").write_text("")
  with pytest.raises(errors.WorkdirError, match="Cannot write to"):
    toy_steps.opened(tmp_path / "checkpoints")


def test_another_optimizer_than_the_saved_one_is_an_error(two_steps, tmp_path):
  folder = _copy(two_steps, tmp_path)
  opened = toy_steps.opened(folder)
  with pytest.raises(errors.ConfigError, match=r"other settings.*has besides opt_state/rule/count"):
    opened.restore(toy_state.target(name="sgd"))
  with pytest.raises(errors.ConfigError, match=r"differs in .*bfloat16"):
    opened.restore(toy_state.target(mu_dtype="bfloat16"))
  opened.close()


def test_weights_are_read_back_by_name_from_workdir_folder_and_step(
  two_steps, tmp_path, monkeypatch
):
  _copy(two_steps, tmp_path)
  # The toy has no model's names, so its sizes cannot be inferred.
  monkeypatch.setattr(opening.param_table, "sizes_of", lambda found, where: {})
  want = two_steps[1][1].params
  for path in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "2"):
    assert opening.is_run(path)
    opened = opening.open_run(path)
    assert opened.weights.path.name == "2" and opened.config == json.loads(
      toy_steps.FILES["config.json"]
    )
    assert opened.weights.tokenizer.read_bytes() == toy_steps.FILES["tokenizer.model"]
    assert set(opened.weights.entries) == set(want)
  for name, leaf in want.items():
    found = opened.weights.read(name)
    assert found.dtype == leaf.dtype and (found == np.asarray(leaf)).all()
  assert not opening.is_run(pathlib.Path(tmp_path / "nowhere"))


def test_every_fault_point_of_state_is_in_the_source_once():
  sources = [p.read_text() for p in pathlib.Path(store.__file__).parent.glob("*.py")]
  used = re.findall(r'atomic_io\.fault_point\(f?"(.*?)"\)', "".join(sources))
  kinds = {True: ("state", "base"), False: ("",)}
  used = [p.format(fault=kind) for p in used for kind in kinds["{fault}" in p]]
  assert sorted(used) == sorted(p for p in atomic_io.POINTS if p.startswith(("state.", "base.")))


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/.tmp-1", "checkpoints/.tmp-base"])
def test_links_in_a_run_s_folder_are_not_followed(name, tmp_path):
  outside = tmp_path / "outside"
  (outside / "7").mkdir(parents=True)
  (outside / "7" / "mine").write_text("mine")
  run = tmp_path / "run"
  (run / name).parent.mkdir(parents=True, exist_ok=True)
  (run / name).symlink_to(outside)
  if name == "checkpoints":
    with pytest.raises(errors.WorkdirError, match="checkpoints' is a link"):
      toy_steps.opened(run / "checkpoints")
  else:
    opened, _ = toy_steps.saved(run / "checkpoints", 2)
    opened.close()
    assert sorted(manifest.steps_in(run / "checkpoints")) == [1, 2]
  found = [str(p.relative_to(outside)) for p in sorted(outside.rglob("*"))]
  assert found == ["7", "7/mine"]


def _forge(folder, change):
  """Writes an intact seal that says something else."""
  body = json.loads((folder / manifest.SEAL).read_bytes())["body"]
  change(body)
  (folder / manifest.SEAL).write_bytes(manifest._render(body))


def _all_leaves(value):
  return lambda b: b["facts"]["leaves"].update(dict.fromkeys(b["facts"]["leaves"], value))


@pytest.mark.parametrize(
    "change",
    [
        *map(_all_leaves, (["float32"], 5, True, ["float32", 5], [["float32"], [2]], None, {})),
        _all_leaves(["float32", [-1]]), _all_leaves(["float32", [10**30]]),
        lambda b: b["facts"].pop("leaves"), lambda b: b["facts"].pop("step"),
        lambda b: b["facts"].pop("base"), lambda b: b["facts"].update(kind=["step"]),
        lambda b: b["facts"].update(step=10**200), lambda b: b["facts"].update(run=[1]),
        lambda b: b["facts"].update(run={"rows": {"dropped": "1"}}),
        lambda b: b["facts"].update(run={"line": {"loss": 1}}),
        lambda b: b["facts"].update(run={"line": [["loss", [1]]]}),
        lambda b: b["facts"].update(run={"line": [[["loss"], 1]]}),
        lambda b: b["facts"].update(run={"line": ["loss"]}),
        lambda b: b["facts"].update(run={"nonfinite": {"count": 1}}),
        lambda b: b.update(facts=[1]), lambda b: b.update(files=[]), lambda b: b.pop("files"),
        lambda b: b.update(files={name: {"a": 1} for name in b["files"]}),
        lambda b: b.update(files={name: ["x", v[1]] for name, v in b["files"].items()}),
        lambda b: b.update(files={**b["files"], "../x": [1, "0"]}),
    ],
)  # fmt: skip
def test_a_forged_seal_is_a_broken_step_not_a_crash(change, two_steps, tmp_path):
  folder = _copy(two_steps, tmp_path)
  _forge(folder / "2", change)
  with pytest.raises(manifest.Broken):
    manifest.verify_step(folder / "2")
  with pytest.raises(errors.StateError, match="no intact step"):
    opening.open_run(folder / "2")


@pytest.mark.parametrize(
  "chunk, num_bytes",
  [((8, 6), 8 * 6 * 4), ((1, 6), 2 * 6 * 4), ((3, 4), 6 * 8 * 4), ((100, 100), 100 * 100 * 4)],
)
def test_what_is_read_of_a_shard_are_the_chunks_that_it_lies_in(chunk, num_bytes):
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  target = jax.ShapeDtypeStruct((2, 6), np.float16, sharding=place)
  assert manifest._read_for(target, np.float32, (8, 6), chunk) == num_bytes
