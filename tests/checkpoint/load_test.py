"""Strict loading onto devices, round trips, and where published files are looked for."""

import json
import subprocess
import sys
import zipfile
import zlib

import jax
import numpy as np
import pytest

from paligemma_jax.checkpoint import export
from paligemma_jax.checkpoint import hub
from paligemma_jax.checkpoint import load
from paligemma_jax.checkpoint import npz
from paligemma_jax.checkpoint import opening
from paligemma_jax.core import errors
from paligemma_jax.models import paligemma
from paligemma_jax.models import param_table
from paligemma_jax.models import variants
from tests import golden_files
from tests import virtual_devices
from tests.checkpoint import makers


def _load(path, shapes, **options):
  return load.load_params(opening.open_weights(path), shapes, **options)


def _assert_bits(found, target):
  assert set(found) == set(target)
  for name, array in target.items():
    assert np.asarray(found[name]).tobytes() == array.tobytes(), name
    assert found[name].dtype == array.dtype and found[name].shape == array.shape


@pytest.mark.parametrize("variant", [*sorted(variants.VARIANTS), "gemma1 with as many kv heads"])
def test_names_and_shapes_are_those_of_the_model(variant):
  overrides = {"llm.num_kv_heads": 4} if variant.startswith("gemma1") else {}
  model_config = variants.get("tiny" if overrides else variant, res=224, overrides=overrides)
  shapes = {name: leaf.shape for name, leaf in paligemma.param_shapes(model_config).items()}
  sizes = param_table.sizes_of(shapes, "model")
  assert param_table.shapes(sizes) == shapes
  assert variants.Vit(**sizes["img"]) == model_config.img
  assert variants.Gemma(**sizes["llm"]) == model_config.llm
  assert sizes["res"] == 224


@pytest.mark.parametrize("dtype", [np.float32, np.float16, makers.BFLOAT16])
@pytest.mark.parametrize("post_norms", [False, True])
def test_npz_hf_and_native_round_trips_keep_every_bit(tmp_path, dtype, post_norms):
  model = makers.sizes(post_norms=post_norms, num_kv_heads=2)
  target = makers.params(model, dtype)
  shapes = param_table.shapes(model)
  source = makers.write_hf(
    tmp_path / "hf", makers.hf_tensors(target, model), makers.hf_config(model), num_shards=2
  )
  params = _load(source, shapes, dtype=None)
  _assert_bits(params, target)
  export.save_npz(tmp_path / "a.npz", params)
  params = _load(tmp_path / "a.npz", shapes, dtype=None)
  export.save_native(tmp_path / "native", params, model, tokenizer=b"tokens")
  params = _load(tmp_path / "native", shapes, dtype=None)
  export.save_npz(tmp_path / "b.npz", params)
  _assert_bits(_load(tmp_path / "b.npz", shapes, dtype=None), target)
  assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("name", ["tiny", "tiny2", "tinymha", "tiny.bf16", "tiny.f16"])
def test_a_file_of_the_reference_survives_load_and_save(tmp_path, name):
  path = golden_files.path(f"bv/{name}.npz")
  weights = opening.open_weights(path)
  params = load.load_params(weights, param_table.shapes(weights.sizes), dtype=None)
  export.save_npz(tmp_path / "x.npz", params)
  with np.load(path) as old, np.load(tmp_path / "x.npz") as new:
    assert sorted(old.files) == sorted(new.files)
    for key in old.files:
      assert (old[key].dtype, old[key].shape) == (new[key].dtype, new[key].shape)
      assert old[key].tobytes() == new[key].tobytes()


def test_dtypes_are_chosen_per_name(tmp_path):
  target = makers.params(makers.sizes())
  path = makers.write_npz(tmp_path / "w.npz", target)

  def trains(name):
    return np.float32 if name.startswith("llm/") else makers.BFLOAT16

  params = _load(path, param_table.shapes(makers.sizes()), dtype=trains)
  _assert_bits(params, {n: a.astype(trains(n)) for n, a in target.items()})


_ON_EIGHT_DEVICES = """
import sys
import jax
import numpy as np
from paligemma_jax.training import sharding
from paligemma_jax.checkpoint import load, opening, reader
reader.BLOCK_BYTES = 100
assert jax.device_count() == 8
weights = opening.open_weights(sys.argv[1])
shapes = {n: e for n, e in weights.entries.items()}
mesh = jax.make_mesh((2, 4), ("data", "fsdp"))
places = sharding.param_shardings(shapes, mesh, min_size=8)
params = load.load_params(weights, shapes, dtype=np.float32, shardings=places)
cut = 0
for name, array in params.items():
  assert array.sharding == places[name]
  assert len(array.addressable_shards) == 8
  truth = weights.read(name)
  for shard in array.addressable_shards:
    assert np.array_equal(shard.data, truth[shard.index]), name
  cut += array.addressable_shards[0].data.shape != truth.shape
print(cut)
"""


def test_every_device_of_a_mesh_gets_its_part(tmp_path):
  path = makers.write_npz(tmp_path / "w.npz", makers.params(makers.sizes()))
  env = virtual_devices.environment(8)
  command = [sys.executable, "-c", _ON_EIGHT_DEVICES, str(path)]
  done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  assert int(done.stdout) >= 7  # Of the 32 leaves, those with a dim that 4 divides are cut.


def test_what_the_model_needs_is_compared_before_data_is_read(tmp_path):
  model = makers.sizes()
  model["llm"]["vocab_size"] = 1000
  target = makers.params(model)
  path = makers.write_npz(tmp_path / "w.npz", target)
  shapes = param_table.shapes({**model, "llm": {**model["llm"], "mlp_dim": 12}})
  content = path.read_bytes()
  with zipfile.ZipFile(path) as archive:  # Any attempt to read it would end in another error.
    info = archive.getinfo("params/llm/embedder/input_embedding.npy")
  at = info.header_offset + 29 + len(info.filename) + info.compress_size
  content = content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :]
  path.write_bytes(content)
  with pytest.raises(errors.CheckpointError, match="2 of another shape") as caught:
    _load(path, shapes, dtype=None)
  assert "llm/layers/mlp/linear: [3, 10, 8] in the file, [3, 12, 8] expected" in str(caught.value)


def test_another_vocabulary_says_how_a_run_takes_it(tmp_path):
  model = makers.sizes()
  path = makers.write_npz(tmp_path / "w.npz", makers.params(model))
  shapes = param_table.shapes({**model, "llm": {**model["llm"], "vocab_size": 9}})
  with pytest.raises(errors.CheckpointError, match=r"all rows with model\.vocab_size=11"):
    _load(path, shapes, dtype=None)


def test_position_embeddings_are_resampled_as_the_reference_does_and_it_says_so():
  weights = opening.open_weights(golden_files.path("bv/tiny.npz"))
  logged = []
  params = load.load_params(
    weights,
    param_table.shapes({**weights.sizes, "res": 84}),
    dtype=np.float32,
    log=logged.append,
  )
  with np.load(golden_files.path("bv/tiny_res84.npz")) as golden:
    # The same scipy routine on the same float32 numbers.
    assert np.array_equal(params[param_table.POS_EMBEDDING], golden["pos_embedding"])
  assert len(logged) == 1 and "img/pos_embedding from 16 to 36 image tokens" in logged[0]


def test_position_embeddings_of_another_width_are_not_resampled(tmp_path):
  model = makers.sizes()
  path = makers.write_npz(tmp_path / "w.npz", makers.params(model))
  wide = param_table.shapes({**model, "res": 12, "img": {**model["img"], "width": 12}})
  with pytest.raises(errors.CheckpointError, match=r"pos_embedding: \[1, 16, 6\]"):
    _load(path, wide, dtype=None)


def test_saving_converts_and_leaves_nothing_half_written(tmp_path):
  target = makers.params(makers.sizes())
  path = tmp_path / "x.npz"
  export.save_npz(path, target, dtype="bfloat16")
  expected = {n: a.astype(makers.BFLOAT16) for n, a in target.items()}
  _assert_bits(_load(path, param_table.shapes(makers.sizes()), dtype=None), expected)
  before = path.read_bytes()

  class Breaks:
    shape, dtype = target["llm/layers/mlp/linear"].shape, np.dtype(np.float32)

    def __getitem__(self, rows):
      raise OSError("disk full")

  with pytest.raises(errors.CheckpointError, match="disk full"):
    export.save_npz(path, {**target, "llm/layers/mlp/linear": Breaks()})
  assert path.read_bytes() == before
  assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def test_saving_refuses_what_the_format_has_no_place_for(tmp_path):
  target = makers.params(makers.sizes())
  with pytest.raises(errors.CheckpointError, match="cannot be stored as int8"):
    export.save_npz(tmp_path / "x.npz", target, dtype="int8")
  with pytest.raises(errors.CheckpointError, match="cannot be stored as float17"):
    export.save_npz(tmp_path / "x.npz", target, dtype="float17")
  del target["img/head/bias"]
  with pytest.raises(errors.CheckpointError, match="missing img/head/bias"):
    export.save_npz(tmp_path / "x.npz", target)
  assert not list(tmp_path.iterdir())


def _native(tmp_path):
  model = {**makers.sizes(), "res": 8}
  model["llm"] = {**model["llm"], "final_softcap": 7.5}
  target = makers.params(model)
  return export.save_native(tmp_path / "n", target, model, tokenizer=b"tokens"), target, model


@pytest.mark.parametrize(
  "tower, name, value",
  [
    ("llm", "attn_softcap", float("nan")),
    ("llm", "final_softcap", float("inf")),
    ("llm", "final_softcap", -1.0),
    ("llm", "sliding_window", True),
    ("llm", "width", 10**30),
    ("img", "depth", 3.0),
    ("llm", "post_norms", 1),
  ],
)
def test_a_native_directory_with_an_impossible_size_is_refused_by_name(
  tmp_path, tower, name, value
):
  path, _, model = _native(tmp_path)
  model[tower][name] = value
  _reseal(path, {**json.loads((path / "config.json").read_bytes()), "model": model})
  with pytest.raises(errors.CheckpointError, match=rf"{tower}\.{name} is |NaN|Infinity"):
    opening.open_weights(path)


def _reseal(path, config):
  """Writes another config.json, and the seal that belongs to it."""
  raw = json.dumps(config).encode()
  (path / "config.json").write_bytes(raw)
  files = json.loads((path / "SEAL.json").read_bytes())["files"]
  files["config.json"] = {"bytes": len(raw), "crc32": zlib.crc32(raw)}
  (path / "SEAL.json").write_text(json.dumps({"files": files, "crc32": npz.seal_crc(files)}))


def test_a_native_directory_keeps_sizes_and_tokenizer(tmp_path):
  path, target, model = _native(tmp_path)
  weights = opening.open_weights(path)
  assert weights.kind == "native" and weights.sizes == model
  assert weights.tokenizer.read_bytes() == b"tokens"
  with pytest.raises(errors.CheckpointError, match="exists"):
    export.save_native(path, target, model)


def _cut(path):
  path.write_bytes(path.read_bytes()[:-1])


def _flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


@pytest.mark.parametrize("damage", [_cut, _flip, lambda path: path.unlink()])
@pytest.mark.parametrize("file", ["config.json", "params.npz", "tokenizer.model", "SEAL.json"])
def test_every_damage_to_a_native_directory_is_noticed(tmp_path, file, damage):
  path, _, model = _native(tmp_path)
  damage(path / file)
  with pytest.raises(errors.CheckpointError):
    _load(path, param_table.shapes(model), dtype=None)


def test_a_path_without_weights_is_named(tmp_path):
  with pytest.raises(errors.CheckpointError, match=r"nowhere/x\.npz'.*no such file"):
    opening.open_weights("nowhere/x.npz")
  with pytest.raises(errors.CheckpointError, match="no directory of weights"):
    opening.open_weights(tmp_path)
  (tmp_path / "model.safetensors").write_bytes(b"")
  with pytest.raises(errors.CheckpointError, match="give the directory"):
    opening.open_weights(tmp_path / "model.safetensors")
  (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
  with pytest.raises(errors.CheckpointError, match="model_type is 'bert'"):
    opening.open_weights(tmp_path)


def test_a_published_name_says_where_to_get_it_and_where_to_put_it(tmp_path, monkeypatch):
  monkeypatch.setenv(hub.DIRECTORY_VARIABLE, str(tmp_path))
  for name, page in (("pt_224", "models/google/paligemma "), ("pt_3b_448", "paligemma-2 ")):
    with pytest.raises(errors.CheckpointError) as caught:
      hub.find_released(name)
    message = str(caught.value)
    assert page in message and str(tmp_path) in message and hub.TOKENIZER in message
  with pytest.raises(errors.CheckpointError, match=r"Did you mean .*'pt_224'"):
    hub.find_released("pt_244")


@pytest.mark.parametrize(
  ("name", "file"),
  [
    ("pt_224", "paligemma-3b-pt-224.npz"),
    ("pt_224", "pt_224.npz"),
    ("pt_3b_224", "paligemma2-3b-pt-224.b16.npz"),
    ("paligemma2-10b-mix-448", "paligemma2-10b-mix-448"),
  ],
)
def test_a_published_name_finds_its_file(tmp_path, monkeypatch, name, file):
  monkeypatch.setenv(hub.DIRECTORY_VARIABLE, str(tmp_path))
  (tmp_path / file).touch()
  (tmp_path / hub.TOKENIZER).touch()
  assert hub.find_released(name) == tmp_path / file
  assert hub.find_tokenizer(tmp_path / file) == tmp_path / hub.TOKENIZER


def test_loaded_arrays_are_on_their_device(tmp_path):
  path = makers.write_npz(tmp_path / "w.npz", makers.params(makers.sizes()))
  params = _load(path, param_table.shapes(makers.sizes()), dtype=np.float32)
  assert all(p.devices() == {jax.local_devices()[0]} for p in params.values())


@pytest.mark.parametrize("name", ["w.npz", "native"])
def test_weights_are_not_written_through_links_and_leftovers_are_removed(name, tmp_path):
  model, outside = makers.sizes(), tmp_path / "outside"
  outside.mkdir()
  (outside / "mine").write_text("mine")

  def save(path):
    if name == "w.npz":
      export.save_npz(path, makers.params(model))
    else:
      export.save_native(path, makers.params(model), model)

  partial = tmp_path / f".{name}.partial"
  partial.symlink_to(outside / "mine" if name == "w.npz" else outside)
  save(tmp_path / name)
  (tmp_path / "again").mkdir()
  leftover = tmp_path / "again" / f".{name}.partial"
  leftover.write_text("half") if name == "w.npz" else (leftover / "half").mkdir(parents=True)
  save(tmp_path / "again" / name)
  assert [p.name for p in outside.iterdir()] == ["mine"]
  assert (outside / "mine").read_text() == "mine"
  assert [p.name for p in (tmp_path / "again").iterdir()] == [name]
  assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["again", "outside", name])
