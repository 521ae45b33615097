"""Saved state in a bucket: the promises of a folder, where nothing can be renamed."""

import shutil

import pytest

from paligemma_jax.checkpoint import manifest
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from tests.checkpoint import toy_steps
from tests.training import toy_state


@pytest.fixture
def folder(gcs, tmp_path):
  return bucket.path(f"gs://test-bucket/{tmp_path.name}/checkpoints")


def _names(folder):
  return sorted({name.split("/")[0] for name in bucket.listing(folder)})


@pytest.mark.parametrize("async_save", [True, False])
def test_what_comes_back_is_what_was_saved_and_old_steps_go(folder, async_save):
  opened, history = toy_steps.saved(folder, 3, async_save=async_save)
  opened.close()
  assert _names(folder) == ["2", "3", "base"]
  again = toy_steps.opened(folder)
  toy_state.assert_equal(again.restore(toy_state.target()), history[2])
  again.close()


def test_to_verify_a_step_reads_its_seals_alone(folder, gcs):
  opened, _ = toy_steps.saved(folder, 1)
  opened.close()
  before = len(gcs.requests())
  manifest.verify_step(folder / "1")
  read = {name for method, name in gcs.requests()[before:] if "/checkpoints/" in name}
  assert {name.rpartition("checkpoints/")[2] for name in read} <= {
    "1/SEAL.json", "base/SEAL.json", "1", "base"
  }  # fmt: skip


def test_every_damage_to_every_object_is_found(folder, gcs):
  opened, history = toy_steps.saved(folder, 2)
  opened.close()
  num = 0
  root = str(folder).removeprefix("gs://")
  names = [f"2/{n}" for n in bucket.listing(folder / "2")] + [
    f"base/{n}" for n in bucket.listing(folder / "base")
  ]
  for name in names:
    data = bucket.read(folder / name, max_bytes=1 << 24)
    for kind in ("delete", "half", "empty", "flip"):
      gcs.damage(f"{root}/{name}", kind)
      with pytest.raises(manifest.Broken, match=name.rpartition("/")[2]):
        manifest.verify_step(folder / "2")
        pytest.fail(f"{name} {kind} was not found")
      bucket.write(folder / name, data)
      num += 1
  manifest.verify_step(folder / "2")
  assert num > 80
  # Files of arrays of equal size have equal CRC-32C, so one in place of another is the hard case.
  manifests = [f"{n}/state/ocdbt.process_0/manifest.ocdbt" for n in ("1", "2")]
  one = bucket.read(folder / manifests[0], max_bytes=1 << 20)
  other = bucket.read(folder / manifests[1], max_bytes=1 << 20)
  if len(one) == len(other):
    bucket.write(folder / manifests[1], one)
    with pytest.raises(manifest.Broken, match="manifest"):
      manifest.verify_step(folder / "2")
    bucket.write(folder / manifests[1], other)
  bucket.write(folder / "2/state/more", b"x")
  with pytest.raises(manifest.Broken, match="more is not in the seal"):
    manifest.verify_step(folder / "2")
  again = toy_steps.opened(folder)
  toy_state.assert_equal(again.restore(toy_state.target()), history[0])
  assert set(again.skipped) == {2}
  again.save(toy_state.advance(history[0]))
  again.wait()
  toy_state.assert_equal(again.restore(toy_state.target()), history[1])
  again.close()


def test_a_step_without_its_seal_is_not_there_and_is_removed(folder):
  opened, history = toy_steps.saved(folder, 2)
  opened.close()
  bucket.remove(folder / "2/SEAL.json")
  assert manifest.steps_in(folder) == [1]
  again = toy_steps.opened(folder)
  assert _names(folder) == ["1", "base"]
  toy_state.assert_equal(again.restore(toy_state.target()), history[0])
  again.close()


@pytest.mark.parametrize(
  "status, words", [(403, "refuse|PERMISSION|ermission"), (507, "507|no space")]
)
@pytest.mark.parametrize("where", ["state/", "SEAL.json", "config.json"])
def test_a_refused_save_is_reported_leaves_nothing_and_the_next_one_works(
  folder, gcs, status, words, where, monkeypatch
):
  monkeypatch.setitem(manifest._RETRIES, "max_retries", 2)
  opened, history = toy_steps.saved(folder, 1)
  gcs.plan(dict(method="POST|PUT", path=f"/2/{where}", status=status))
  state = toy_state.advance(history[0])
  opened.save(state)
  with pytest.raises(errors.StateError, match=rf"saving step 2 .*({words})"):
    opened.wait()
  gcs.plan()
  assert _names(folder) == ["1", "base"]
  toy_steps.assert_next_save_works(opened, history[0], state)


def test_a_busy_store_delays_a_save(folder, gcs):
  gcs.plan(*(dict(method="POST", status=s, times=3, skip=k) for k, s in enumerate((503, 429))))
  opened, history = toy_steps.saved(folder, 1)
  opened.close()
  toy_state.assert_equal(toy_steps.opened(folder).restore(toy_state.target()), history[0])


def test_a_run_that_was_copied_to_a_disk_is_checked_there(folder, tmp_path):
  opened, history = toy_steps.saved(folder, 1)
  opened.close()
  for name in bucket.listing(folder):
    file = tmp_path / "copy" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bucket.read(folder / name, max_bytes=1 << 24))
  local = toy_steps.opened(tmp_path / "copy")
  toy_state.assert_equal(local.restore(toy_state.target()), history[0])
  local.close()
  file = max((tmp_path / "copy/1/state").rglob("*"), key=lambda p: p.stat().st_size)
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(data)
  with pytest.raises(manifest.Broken, match=file.name):
    manifest.verify_step(tmp_path / "copy/1")


def test_a_run_that_was_copied_from_a_disk_is_checked_there(folder, tmp_path):
  opened, history = toy_steps.saved(tmp_path / "checkpoints", 1)
  opened.close()
  for file in (tmp_path / "checkpoints").rglob("*"):
    if file.is_file():
      bucket.write(folder / file.relative_to(tmp_path / "checkpoints"), file.read_bytes())
  there = toy_steps.opened(folder)
  toy_state.assert_equal(there.restore(toy_state.target()), history[0])
  there.close()
  shutil.rmtree(tmp_path / "checkpoints")
