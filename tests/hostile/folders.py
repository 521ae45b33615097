"""Folders of models made by hand: foreign config.json, and our own with their seals."""

import json

from tests.checkpoint import makers
from tests.faults import run_readers
from tests.hostile.made import Case
from tests.hostile.made import cut
from tests.hostile.made import edit
from tests.hostile.made import gone
from tests.hostile.made import link
from tests.hostile.made import more
from tests.hostile.made import outside
from tests.hostile.made import swap
from tests.hostile.made import traps
from tests.hostile.made import turned

_REFUSED = "CheckpointError"


def _config(expected, section="text_config", **values):
  return Case("2.json", edit(lambda c: c[section].update(values)), expected)


def _not(words, **values):
  return _config(f"{_REFUSED} {words}", **values)


HF_CONFIG = {
    **traps("2.json", _REFUSED, pipe="regular", device="regular"),
    "a list": Case("2.json", b"[]", f"{_REFUSED} object"),
    "deep": Case("2.json", b'{"a":' * 10**6, f"{_REFUSED} nested"),
    "UTF-16": Case("2.json", lambda p: p.write_text(p.read_text(), "utf-16"), f"{_REFUSED} UTF-8"),
    "BOM": Case("2.json", lambda p: p.write_text(p.read_text(), "utf-8-sig"), "value"),
    "no sections": Case("2.json", b'{"model_type": "paligemma"}', f"{_REFUSED} vision_config"),
    "another model": Case(
        "2.json", edit(lambda c: c.update(model_type="llava")), f"{_REFUSED} llava"
    ),
    "model_type a list": Case(
        "2.json", edit(lambda c: c.update(model_type=["paligemma"])), _REFUSED
    ),
    "a section a list": Case("2.json", edit(lambda c: c.update(vision_config=[1])), _REFUSED),
    "a section null": Case("2.json", edit(lambda c: c.update(text_config=None)), _REFUSED),
    "remote code": Case(
        "2.json", edit(lambda c: c.update(auto_map={"AutoModel": "sent.X"})), "value"
    ),
    "kind gemma3": _not("gemma3", model_type="gemma3_text"),
    "kind a dict": _not("model_type", model_type={}),
    "10 ** 9 layers": _not("num_hidden_layers", num_hidden_layers=10**9),
    "0 layers": _not("num_hidden_layers", num_hidden_layers=0),
    "-1 layers": _not("num_hidden_layers", num_hidden_layers=-1),
    "1.0 layers": _not("num_hidden_layers", num_hidden_layers=1.0),
    "true layers": _not("num_hidden_layers", num_hidden_layers=True),
    "layers null": _not("num_hidden_layers", num_hidden_layers=None),
    "1000 layers": _config("value", num_hidden_layers=1000),
    "head_dim a text": _not("head_dim", head_dim="256"),
    "head_dim a list": _not("head_dim", head_dim=[14]),
    "head_dim 10 ** 299": _not("head_dim", head_dim=10**299),
    "head_dim odd": _config("ConfigError odd", head_dim=13, query_pre_attn_scalar=13),
    "heads that do not divide": _config("ConfigError divide", num_key_value_heads=3),
    "hidden_size 0": _not("hidden_size", hidden_size=0),
    "vocabulary of 2 ** 40": _not("vocab_size", vocab_size=2**40),
    "vocabulary negative": _not("vocab_size", vocab_size=-5),
    "eps NaN": _not("NaN", rms_norm_eps=float("nan")),
    "eps infinite": _not("Infinity", rms_norm_eps=float("inf")),
    "eps 0": _not("rms_norm_eps", rms_norm_eps=0),
    "eps a text": _not("rms_norm_eps", rms_norm_eps="1e-06"),
    "eps a list": _not("rms_norm_eps", rms_norm_eps=[1e-6]),
    "rope 1e6": _not("rope_theta", rope_theta=1e6),
    "rope scaled": _not("rotary", rope_scaling={"type": "linear", "factor": 2}),
    "rope a list": _not("rotary", rope_parameters=[1]),
    "rope in a dict": _not("rope_theta", rope_parameters={"rope_theta": 5}),
    "rope, two that differ": _not(
        "rope_theta", rope_parameters={"rope_theta": 5}, rope_theta=10000.0
    ),
    "softcap NaN": _not("NaN", attn_logit_softcapping=float("nan")),
    "softcap negative": _not("softcapping", attn_logit_softcapping=-50),
    "softcap 1e300": _not("softcapping", final_logit_softcapping=1e300),
    "softcap a text": _not("softcapping", final_logit_softcapping="30"),
    "softcap true": _not("softcapping", final_logit_softcapping=True),
    "window negative": _not("sliding_window", sliding_window=-1),
    "layer types of words": _not("layer_types", sliding_window=8, layer_types=["x"] * 3),
    "layer types too few": _not("layer_types", sliding_window=8, layer_types=["full_attention"]),
    "layer types a million": _not("layer_types", sliding_window=8, layer_types=["x"] * 10**6),
    "layer types a dict": _not("layer_types", sliding_window=8, layer_types={}),
    "scale of queries 0": _not("query_pre_attn_scalar", query_pre_attn_scalar=0),
    "scale of queries another": _not("query_pre_attn_scalar", query_pre_attn_scalar=99),
    "activation a list": _not("hidden_activation", hidden_activation=["gelu"]),
    "activation relu": _not("hidden_activation", hidden_activation="relu"),
    "embeddings not tied": _not("tie_word_embeddings", tie_word_embeddings=False),
    "patches that do not divide": _not("multiples", section="vision_config", patch_size=3),
    "patch 0": _not("patch_size", section="vision_config", patch_size=0),
    "four channels": _not("num_channels", section="vision_config", num_channels=4),
    "image_size a list": _not("image_size", section="vision_config", image_size=[8, 8]),
    "image_size 2 ** 26": _config("ConfigError", section="vision_config", image_size=2**26),
    "a key twice": Case("2.json", swap(b'"head_dim": 14', b'"head_dim": 14, "head_dim": 14'),
                        f"{_REFUSED} twice"),
}  # fmt: skip

_PARAMS, _SEAL, _CONFIG = "weights/params.npz", "weights/SEAL.json", "weights/config.json"
_STEP = "run/checkpoints/0"


def _sealed(file, change, expected):
  """A change that the seal is made for."""

  def apply(path):
    path.write_bytes(change) if isinstance(change, bytes) else change(path)
    above = next(p for p in path.parents if p.name == "input")
    run_readers.READERS["native"].repair(above, [str(path.relative_to(above))])

  return Case(file, apply, expected)


def _model(change, words):
  return _sealed(_CONFIG, edit(lambda c: change(c["model"])), f"{_REFUSED} {words}")


def _facts(change, words=""):
  return _sealed(
    f"{_STEP}/SEAL.json", edit(lambda c: change(c["body"]["facts"])), f"StateError {words}"
  )


def _leaves(change):
  return lambda facts: facts.update(
    leaves={name: change(name, leaf) for name, leaf in facts["leaves"].items()}
  )


def _seal(change, words):
  return Case(_SEAL, edit(change), f"{_REFUSED} {words}")


def _zarr(expected, **fields):
  """What an array of a sealed step says of itself, in the store that it lies in."""

  def change(path):
    import tensorstore as ts

    store = ts.KvStore.open({"driver": "ocdbt", "base": f"file://{path.parent}/"}).result()
    key = "trainable.llm.embedder.input_embedding/.zarray"
    content = json.loads(store.read(key).result().value)
    store.write(key, json.dumps(content | fields).encode()).result()
    above = next(p for p in path.parents if p.name == "input")
    for found in sorted(path.parents[1].rglob("*")):  # The store has written new files.
      if found.is_file() and found.name != "SEAL.json":
        run_readers.READERS["native"].repair(above, [str(found.relative_to(above))])

  return Case(f"{_STEP}/state/manifest.ocdbt", change, expected)


_EMBEDDING = "trainable/llm/embedder/input_embedding"

NATIVE = {
    **traps(_PARAMS, _REFUSED, missing="expected 'paligemma'", pipe="regular", device="regular"),
    **traps(_SEAL, _REFUSED, missing="no SEAL.json", itself="no SEAL.json", pipe="regular"),
    **traps(_CONFIG, _REFUSED, pipe="regular", device="regular"),
    **traps(f"{_STEP}/SEAL.json", "StateError", itself="", pipe="regular"),
    **traps("run/checkpoints/base/SEAL.json", "StateError frozen"),
    "seal a list": Case(_SEAL, b"[]", f"{_REFUSED} object"),
    "seal {}": Case(_SEAL, b"{}", f"{_REFUSED} checksum"),
    "seal of another version": _seal(lambda c: c.update(crc32=0), "checksum"),
    "seal, crc a text": _seal(lambda c: c.update(crc32=str(c["crc32"])), "checksum"),
    "seal, files a list": _seal(lambda c: c.update(files=list(c["files"])), "checksum"),
    "seal, a file above": _sealed(
        _SEAL, edit(lambda c: c["files"].update({"../../outside/mine": {"bytes": 19}})), "value"
    ),
    "seal, sizes of texts": _sealed(
        _SEAL, edit(lambda c: c["files"]["config.json"].update(bytes="504")),
        f"{_REFUSED} sealed as",
    ),
    "seal, a file a number": _sealed(
        _SEAL, edit(lambda c: c["files"].update({"config.json": 5})), f"{_REFUSED} sealed as"
    ),
    "seal without the parameters": _sealed(
        _SEAL, edit(lambda c: c["files"].pop("params.npz") and None), f"{_REFUSED} checksum"
    ),
    "config changed": Case(_CONFIG, swap(b'"res": 8', b'"res": 4'), f"{_REFUSED} sealed"),
    "config of another length": Case(_CONFIG, more(b" "), f"{_REFUSED} sealed as"),
    "params of another length": Case(_PARAMS, more(b" "), f"{_REFUSED} sealed as"),
    "params turned": Case(_PARAMS, turned, _REFUSED),
    "params of another model": _sealed(
        _PARAMS, lambda p: makers.write_npz(p, makers.params(makers.sizes())), _REFUSED
    ),
    "tokenizer changed": Case("weights/tokenizer.model", b"x", f"{_REFUSED} sealed as"),
    "tokenizer a device": Case("weights/tokenizer.model", link("/dev/zero"), f"{_REFUSED} regular"),
    "tokenizer missing": Case("weights/tokenizer.model", gone, f"{_REFUSED}"),
    "format 2": _sealed(_CONFIG, swap(b"weights 1", b"weights 2"), f"{_REFUSED} format"),
    "no model": _sealed(
        _CONFIG, b'{"format": "paligemma_jax weights 1"}', f"{_REFUSED} model sizes"
    ),
    "model a list": _sealed(_CONFIG, b'{"format": "paligemma_jax weights 1", "model": [1]}',
                            f"{_REFUSED} model sizes"),
    "depth 10 ** 9": _model(lambda m: m["llm"].update(depth=10**9), ""),
    "depth 2 ** 30": _model(lambda m: m["llm"].update(depth=2**30), ""),
    "depth 0": _model(lambda m: m["llm"].update(depth=0), ""),
    "depth -1": _model(lambda m: m["llm"].update(depth=-1), "damaged model sizes"),
    "depth a half": _model(lambda m: m["llm"].update(depth=3.5), "damaged model sizes"),
    "depth true": _model(lambda m: m["llm"].update(depth=True), "damaged model sizes"),
    "head_dim a text": _model(lambda m: m["llm"].update(head_dim="14"), "damaged model sizes"),
    "image heads 0": _model(lambda m: m["img"].update(num_heads=0), ""),
    "patch 0": _model(lambda m: m["img"].update(patch_size=0), ""),
    "softcap a text": _model(lambda m: m["llm"].update(attn_softcap="50"), "damaged model sizes"),
    "softcap null": _model(lambda m: m["llm"].update(attn_softcap=None), "damaged model sizes"),
    "scale of queries another": _sealed(
        _CONFIG, edit(lambda c: c["model"]["llm"].update(query_scale="x")),
        f"{_REFUSED} model sizes",
    ),
    "a size more": _model(lambda m: m["llm"].update(more=1), "damaged model sizes"),
    "a size less": _model(lambda m: m["llm"].pop("width") and None, "damaged model sizes"),
    "step's seal not as written": Case(
        f"{_STEP}/SEAL.json", more(b" "), "StateError as it was written"
    ),
    "step's file more": Case(f"{_STEP}/more", b"x", "StateError not in the seal"),
    "step's file cut": Case(f"{_STEP}/tokenizer.model", cut, "StateError short"),
    "step's file turned": Case(
        f"{_STEP}/config.json", turned, "StateError other"
    ),
    "step's file a link": Case(f"{_STEP}/tokenizer.model", outside, "StateError regular"),
    "step's config a list": _sealed(f"{_STEP}/config.json", b"[]", "StateError object"),
    "step's config {}": _sealed(f"{_STEP}/config.json", b"{}", "value"),
    "step's config, a model of words": _sealed(
        f"{_STEP}/config.json", edit(lambda c: c["model"].update(variant="sent:X")), "ConfigError"
    ),
    "step's config, a huge model": _sealed(
        f"{_STEP}/config.json",
        edit(lambda c: c["model"]["overrides"]["llm"].update(vocab_size=2**40)),
        "ConfigError more than any model",
    ),
    "step's config, code": _sealed(
        f"{_STEP}/config.json", edit(lambda c: c["train"].update(source={"__spec__": "sent:X"})),
        "value",
    ),
    "step of another number": _facts(lambda f: f.update(step=5), "of another folder"),
    "step a text": _facts(lambda f: f.update(step="0"), "does not have"),
    "step without leaves": _facts(lambda f: f.update(leaves=[]), "does not have"),
    "leaves of no kind": _facts(_leaves(lambda n, leaf: ["sent", leaf[1]]), "dtype"),
    "leaves of objects": _facts(_leaves(lambda n, leaf: ["O", leaf[1]]), "dtype"),
    "leaves of texts": _facts(_leaves(lambda n, leaf: ["U4", leaf[1]]), ""),
    "leaves of fields": _facts(_leaves(lambda n, leaf: ["f4,f4", leaf[1]]), "dtype"),
    "leaves of another dtype": _facts(_leaves(lambda n, leaf: ["float64", leaf[1]]), "sealed as"),
    "leaves of negative sides": _facts(_leaves(lambda n, leaf: [leaf[0], [-1]]), "does not have"),
    "a vocabulary of 2 ** 40": _facts(_leaves(
        lambda n, leaf: ["float32", [2**40, 8]] if n == _EMBEDDING else leaf), "sealed as"),
    "a vocabulary of 2 ** 30": _facts(_leaves(
        lambda n, leaf: ["float32", [2**30, 8]] if n == _EMBEDDING else leaf), "sealed as"),
    "a vocabulary of 7": _facts(_leaves(
        lambda n, leaf: ["float32", [7, 8]] if n == _EMBEDDING else leaf), "sealed as"),
    "base of another run": _facts(lambda f: f.update(base="00000000"), "another run"),
    "run a list": _facts(lambda f: f.update(run=[1]), "does not have"),
    "arrays: the same": _zarr("value"),
    "arrays: 2 ** 40 rows": _zarr("StateError", shape=[2**40, 8]),
    "arrays: 2 ** 25 rows, not stored": _zarr("StateError", shape=[2**25, 8]),
    "arrays: 2 ** 26 rows in one part": _zarr("StateError", shape=[2**26, 8], chunks=[2**26, 8]),
    "arrays: parts of 2 ** 40": _zarr("StateError", chunks=[2**40, 8]),
    "arrays: parts of 2 ** 26": _zarr("StateError", chunks=[2**26, 8]),
    "arrays: parts of 0": _zarr("StateError", chunks=[0, 8]),
    "arrays: another shape": _zarr("StateError sealed as", shape=[7, 8]),
    "arrays: transposed": _zarr("StateError sealed as", shape=[8, 64], chunks=[8, 64]),
    "arrays: another dtype": _zarr("StateError", dtype="<f8"),
    "arrays: objects": _zarr("StateError", dtype="|O"),
    "arrays: of a negative side": _zarr("StateError", shape=[-1, 8]),
    "arrays: one more side": _zarr("StateError", shape=[64, 8, 1], chunks=[64, 8, 1]),
    "arrays: format 9": _zarr("StateError", zarr_format=9),
    "arrays: packed otherwise": _zarr("StateError", compressor={"id": "sent"}),
    "arrays: manifest of noise": _sealed(
        f"{_STEP}/state/manifest.ocdbt", b"\xff" * 114, "StateError"
    ),
    "arrays: manifest empty": _sealed(f"{_STEP}/state/manifest.ocdbt", b"", "StateError"),
    "arrays: metadata deep": _sealed(f"{_STEP}/state/_METADATA", b"[" * 50_000, "StateError"),
    "arrays: metadata a list": _sealed(f"{_STEP}/state/_METADATA", b"[]", "StateError"),
    "arrays: metadata of 20 MB": _sealed(
        f"{_STEP}/state/_METADATA", b'{"tree_metadata": [' + b"{}," * 6_000_000 + b"{}]}",
        "StateError limit",
    ),
}  # fmt: skip

CASES = {"hf_config": HF_CONFIG, "native": NATIVE}
