"""Makers of small weight files, honest and hostile."""

import io
import json
import pathlib
import zipfile
from unittest import mock

import jax
import ml_dtypes
import numpy as np

from paligemma_jax.checkpoint import store
from paligemma_jax.models import param_table
from paligemma_jax.training import state as states

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_SAFE_DTYPES = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16", BFLOAT16: "BF16"}


def sizes(*, post_norms: bool = False, num_kv_heads: int = 1) -> dict:
  """Sizes of a model whose dims all differ where they may, so that no transpose goes unseen."""
  return {
    "img": {"width": 6, "depth": 2, "mlp_dim": 5, "num_heads": 3, "patch_size": 2},
    "llm": {
      "width": 8,
      "depth": 3,
      "mlp_dim": 10,
      "num_heads": 4,
      "num_kv_heads": num_kv_heads,
      "head_dim": 14,
      "vocab_size": 11,
      "post_norms": post_norms,
      "attn_softcap": 50.0 if post_norms else 0.0,
      "final_softcap": 0.0,
      "query_scale": "head_dim",
      "sliding_window": 0,
    },
    "res": 8,
  }


def params(model: dict, dtype=np.float32, seed: int = 0) -> dict[str, np.ndarray]:
  """Random parameters by published name."""
  rng = np.random.default_rng(seed)
  return {n: rng.standard_normal(s).astype(dtype) for n, s in param_table.shapes(model).items()}


def npy(array: np.ndarray) -> bytes:
  """The bytes of an npy file; bfloat16 as released files have it, two raw bytes."""
  buffer = io.BytesIO()
  np.save(buffer, array.view("V2") if array.dtype == BFLOAT16 else array)
  return buffer.getvalue()


def npy_header(descr: str, shape: str) -> bytes:
  """An npy header that claims any dtype and shape, with no data after it."""
  text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
  body = (text + " " * (-(11 + len(text)) % 64) + "\n").encode()
  return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


def write_npz(
  path: pathlib.Path,
  arrays: dict[str, np.ndarray],
  *,
  prefix: str = "params/",
  deflate: bool = False,
  replace: dict[str, bytes] | None = None,
  extra: tuple[tuple[str, bytes], ...] = (),
) -> pathlib.Path:
  """Writes an npz; `replace` puts other bytes in place of a member, `extra` adds members."""
  method = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
  replace = replace or {}
  with zipfile.ZipFile(path, "w", method) as archive:
    for name, array in arrays.items():
      archive.writestr(f"{prefix}{name}.npy", replace.get(name) or npy(array))
    for name, content in extra:
      archive.writestr(name, content)
  return path


def write_safetensors(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> pathlib.Path:
  """Writes one safetensors file."""
  header, data = {"__metadata__": {"format": "pt"}}, b""
  for name, array in arrays.items():
    raw = np.ascontiguousarray(array).tobytes()
    header[name] = {
      "dtype": _SAFE_DTYPES[array.dtype],
      "shape": list(array.shape),
      "data_offsets": [len(data), len(data) + len(raw)],
    }
    data += raw
  return write_raw_safetensors(path, header, data)


def write_raw_safetensors(path: pathlib.Path, header: dict, data: bytes) -> pathlib.Path:
  """Writes a safetensors file with any header, true or not."""
  raw = json.dumps(header).encode()
  path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
  return path


def hf_tensors(arrays: dict[str, np.ndarray], model: dict) -> dict[str, np.ndarray]:
  """The same parameters under Hugging Face's names, laid out there by plain transposes."""
  tensors = {}
  for name, row in param_table.rows(model).items():
    layers = arrays[name] if "{i}" in row.hf[0] else arrays[name][None]
    for i, layer in enumerate(layers):
      for k, their in enumerate(row.hf):
        part = layer if len(row.hf) == 1 else layer[k]
        tensors[their.format(i=i)] = np.ascontiguousarray(_their_layout(name, part))
  return tensors


def hf_config(model: dict, **text) -> dict:
  """The config.json of such a model."""
  img, llm = model["img"], model["llm"]
  text_config = {
    "model_type": "gemma2" if llm["post_norms"] else "gemma",
    "hidden_size": llm["width"],
    "num_hidden_layers": llm["depth"],
    "intermediate_size": llm["mlp_dim"],
    "num_attention_heads": llm["num_heads"],
    "num_key_value_heads": llm["num_kv_heads"],
    "head_dim": llm["head_dim"],
    "vocab_size": llm["vocab_size"],
    "query_pre_attn_scalar": llm["head_dim"],
    "final_logit_softcapping": None,
    "sliding_window": None,
    **text,
  }
  vision_config = {
    "hidden_size": img["width"],
    "num_hidden_layers": img["depth"],
    "intermediate_size": img["mlp_dim"],
    "num_attention_heads": img["num_heads"],
    "patch_size": img["patch_size"],
    "image_size": model["res"],
  }
  return {"model_type": "paligemma", "text_config": text_config, "vision_config": vision_config}


def write_hf(
  folder: pathlib.Path,
  tensors: dict[str, np.ndarray],
  config: dict,
  *,
  num_shards: int = 0,
) -> pathlib.Path:
  """Writes a Hugging Face directory; 0 shards is the single file without an index."""
  folder.mkdir(exist_ok=True)
  (folder / "config.json").write_text(json.dumps(config))
  if not num_shards:
    write_safetensors(folder / "model.safetensors", tensors)
    return folder
  weight_map = {}
  for i in range(num_shards):
    file = f"model-{i + 1:05d}-of-{num_shards:05d}.safetensors"
    part = {name: tensors[name] for name in list(tensors)[i::num_shards]}
    write_safetensors(folder / file, part)
    weight_map.update({name: file for name in part})
  index = {"metadata": {}, "weight_map": weight_map}
  (folder / "model.safetensors.index.json").write_text(json.dumps(index))
  return folder


def write_run(folder: pathlib.Path, arrays: dict[str, np.ndarray]) -> pathlib.Path:
  """Saves a run with one step, in which the vision tower is frozen; the numbers may be NaN."""
  frozen = {n: jax.device_put(x) for n, x in arrays.items() if n.startswith("img/")}
  trainable = {n: jax.device_put(x) for n, x in arrays.items() if n not in frozen}
  saver = store.Checkpoints(
    folder / "checkpoints", keep=1, best_mode="max", async_save=False, files={}
  )
  with mock.patch.object(states, "first_non_finite", return_value=""):
    saver.save(states.TrainState(jax.numpy.int32(1), trainable, frozen, ()))
  saver.close()
  return folder


def _their_layout(name: str, x: np.ndarray) -> np.ndarray:
  """One layer of one of our parameters as a torch (out, in) matrix; written out by hand."""
  if name == "img/embedding/kernel":
    return x.transpose(3, 2, 0, 1)
  if name == "img/pos_embedding":
    return x[0]
  if name.endswith(("query/kernel", "key/kernel", "value/kernel")):
    return x.reshape(x.shape[0], -1).T
  if name.endswith(("query/bias", "key/bias", "value/bias")):
    return x.reshape(-1)
  if name.endswith("out/kernel") or name.endswith("attn_vec_einsum/w"):
    return x.reshape(-1, x.shape[-1]).T
  if name.endswith(("q_einsum/w", "kv_einsum/w", "qkv_einsum/w")):
    heads, width, dim = x.shape
    return x.transpose(0, 2, 1).reshape(heads * dim, width)
  if x.ndim == 2 and "embedding" not in name:
    return x.T
  return x
