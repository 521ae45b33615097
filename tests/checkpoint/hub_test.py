"""Ids of the Hugging Face hub: found in its cache, else an error that says how to get them."""

import re

import pytest

from paligemma_jax.checkpoint import hub
from paligemma_jax.core import errors
from tests.checkpoint import makers

_COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
  for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
  monkeypatch.setenv(hub.DIRECTORY_VARIABLE, str(tmp_path / "checkpoints"))
  monkeypatch.chdir(tmp_path)
  return tmp_path / "home" / "hub"


def _snapshot(cache, repo, revision="main", num_shards=0):
  place = cache / ("models--" + repo.replace("/", "--"))
  folder = place / "snapshots" / _COMMIT
  folder.parent.mkdir(parents=True)
  (place / "refs").mkdir()
  (place / "refs" / revision).write_text(_COMMIT)
  model = makers.sizes()
  tensors = makers.hf_tensors(makers.params(model), model)
  return makers.write_hf(folder, tensors, makers.hf_config(model), num_shards=num_shards)


@pytest.mark.parametrize("num_shards", [0, 2])
def test_an_id_is_found_in_the_cache(cache, num_shards):
  folder = _snapshot(cache, "google/paligemma2-3b-pt-224", num_shards=num_shards)
  assert hub.find_released("google/paligemma2-3b-pt-224") == folder
  assert hub.find_released("pt_3b_224") == folder  # The short name of the same.
  assert hub.find_released(f"google/paligemma2-3b-pt-224@{_COMMIT}") == folder


def test_a_revision_and_any_owner(cache):
  folder = _snapshot(cache, "somebody/my.model", "bfloat16")
  assert hub.find_released("somebody/my.model@bfloat16") == folder
  with pytest.raises(errors.CheckpointError, match="Hugging Face hub"):
    hub.find_released("somebody/my.model@nothing-such")


def test_the_npz_of_a_jax_release(cache):
  folder = _snapshot(cache, "google/paligemma2-3b-pt-224-jax")
  for path in folder.iterdir():
    path.unlink()
  (folder / "paligemma2-3b-pt-224.b16.npz").touch()
  found = hub.find_released("google/paligemma2-3b-pt-224-jax")
  assert found == folder / "paligemma2-3b-pt-224.b16.npz"


def test_a_snapshot_that_is_not_whole_is_none(cache):
  folder = _snapshot(cache, "google/paligemma-3b-pt-224", num_shards=2)
  (folder / "model-00002-of-00002.safetensors").unlink()
  assert hub.cached("google/paligemma-3b-pt-224") is None


def test_what_is_not_there_says_how_to_get_it(cache, monkeypatch):
  monkeypatch.setenv("HF_HUB_OFFLINE", "1")
  for name in ("google/paligemma-3b-pt-224", "google/paligemma-3b-ft-vqav2-448", "a/b@float16"):
    with pytest.raises(errors.CheckpointError, match="hf download") as found:
      hub.find_released(name)
    assert re.search("id of the Hugging Face hub", str(found.value)) and name in str(found.value)
  with pytest.raises(errors.CheckpointError, match=r"published as paligemma-3b-ft-docvqa-896\.npz"):
    hub.find_released("ft_docvqa_896")
  with pytest.raises(errors.CheckpointError, match=r"Did you mean .*'ft_vqav2_448'"):
    hub.find_released("ft_vqa2_448")


def test_a_path_of_a_folder_that_is_here_is_no_id(cache, tmp_path):
  (tmp_path / "runs").mkdir()
  with pytest.raises(errors.CheckpointError, match="no such file or directory") as found:
    hub.find_released("runs/demo")
  assert "hub" not in str(found.value)
