"""Weights made by hand: npz files, safetensors and what lies beside them."""

import json
import pickle
import struct
import warnings
import zipfile

import numpy as np

from tests.checkpoint import hostile_npz
from tests.checkpoint import makers
from tests.hostile.made import Case
from tests.hostile.made import cut
from tests.hostile.made import edit
from tests.hostile.made import link
from tests.hostile.made import more
from tests.hostile.made import outside
from tests.hostile.made import size
from tests.hostile.made import traps
from tests.hostile.made import turned

_STORED, _CODEC = "stored.npz", "codec.npz"
_LEAF = hostile_npz.LEAF
_REFUSED = "CheckpointError"


class _Runs:
  """Whoever unpickles it makes a file."""

  def __reduce__(self):
    return exec, ("import pathlib; pathlib.Path('ran').touch()",)


def _npz(make, words):
  """A file of `tests.checkpoint.hostile_npz`."""

  def apply(path):
    path.unlink()
    below = path.parent / "below"
    below.mkdir()
    with warnings.catch_warnings(action="ignore"):
      make(below, below / "touched").rename(path)

  return Case(_STORED, apply, f"{_REFUSED} {words}")


def _leaf(content, expected, **options):
  """The file with another member in the place of one."""
  return Case(
    _STORED,
    lambda path: makers.write_npz(
      path, makers.params(makers.sizes()), replace={_LEAF: content}, **options
    ),
    expected,
  )


def _header(descr, shape, words):
  return _leaf(makers.npy_header(descr, shape), f"{_REFUSED} {words}")


def _zip(members, method=0):
  def apply(path):
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "w", method) as archive:
      for name, content in members:
        archive.writestr(name, content)

  return apply


def _directory(num):
  """A zip file whose directory names one member a great many times."""

  def apply(path):
    body = b"PK\3\4" + bytes(26)
    entries = b"".join(
      b"PK\1\2" + bytes(24) + struct.pack("<H", 8) + bytes(16) + b"%08x" % i for i in range(num)
    )
    end = b"PK\5\6" + bytes(4) + struct.pack("<HHIIH", 65535, 65535, len(entries), len(body), 0)
    path.write_bytes(body + entries + end)

  return apply


def _codec(change):
  def apply(path):
    with np.load(path) as found:
      arrays = dict(found)
    change(arrays)
    np.savez(path, **arrays)

  return apply


_BOOK = "_vq_vae._embedding"

NPZ = {
    **traps(_STORED, _REFUSED, pipe="regular", device="regular"),
    **traps(_CODEC, _REFUSED),
    "another shape": _npz(hostile_npz.wrong_shape, "shape of"),
    "transposed": _npz(hostile_npz.transposed, "transposed?"),
    "one missing": _npz(hostile_npz.missing, "1 missing"),
    "one more": _npz(hostile_npz.surplus, "1 surplus"),
    "misspelled": _npz(hostile_npz.misspelt, "near"),
    "float64": _npz(hostile_npz.other_dtype, "<f8"),
    "big-endian": _npz(hostile_npz.big_endian, ">f4"),
    "an array of objects": _npz(hostile_npz.objects, "objects are pickles"),
    "a pickle inside": _npz(hostile_npz.raw_pickle, "no numpy array"),
    "a pickle": _npz(hostile_npz.whole_pickle, "no intact npz"),
    "a text inside": _npz(hostile_npz.not_an_array, "no array"),
    "a member twice": _npz(hostile_npz.duplicate, "twice"),
    "cut": _npz(hostile_npz.truncated, "no intact npz"),
    "no arrays": _npz(hostile_npz.no_arrays, "no arrays"),
    "no data": _npz(hostile_npz.member_without_data, "0 bytes are declared"),
    "a header of 40 TB": _npz(hostile_npz.huge_header, "40000000000000 bytes"),
    "a shape that overflows": _npz(hostile_npz.overflowing_shape, "shape"),
    "a negative shape": _npz(hostile_npz.negative_shape, "shape"),
    "a header that is code": _npz(hostile_npz.header_is_code, "damaged array header"),
    "a header in 4000 brackets": _npz(hostile_npz.nested_header, "damaged array header"),
    "a bomb behind an array": _npz(hostile_npz.bomb, "declared"),
    "a bomb of zeros, 1000 to 1": _npz(hostile_npz.honest_bomb, "no weights deflate like that"),
    "another prefix": _npz(hostile_npz.wrong_prefix, "in front"),
    "two prefixes": _npz(hostile_npz.mixed_prefix, "begin with 'params/'"),
    "other names": _npz(hostile_npz.no_known_name, "none of its 2 names"),
    "members that overlap": _npz(hostile_npz.overlapping, "overlaps"),
    "a key that is a dict": _header("'<f4'", "{{}: 1}", "damaged array header"),
    "a key that is a list": _header("'<f4', [1]: 2, 'x': {[]}", "()", "damaged array header"),
    "a hex number of 9000 digits": _header("'<f4'", f"(0x{'f' * 9000},)", "has the shape"),
    "a number of 9000 digits": _header("'<f4'", f"({'9' * 9000},)", "damaged array header"),
    "9000 dimensions": _header("'<f4'", f"({'1,' * 4000})", ""),
    "a shape of bools": _header("'<f4'", "(True, 10, 8)", "has the shape"),
    "a shape of halves": _header("'<f4'", "(3.0, 10, 8)", "has the shape"),
    "a shape that is a list": _header("'<f4'", "[3, 10, 8]", "has the shape"),
    "a dtype of fields": _header("[('a', '<f4')]", "(3, 10, 8)", "dtype"),
    "a dtype of arrays": _header("'(2,2)<f4'", "(3, 10, 8)", "dtype"),
    "a dtype that is a name": _header("sent", "(3, 10, 8)", "damaged array header"),
    "complex numbers": _header("'<c8'", "(3, 10, 8)", "dtype"),
    "texts": _header("'<U4'", "(3, 10, 8)", "dtype"),
    "a header of 4 GB": _leaf(
        b"\x93NUMPY\2\0\xff\xff\xff\xff" + bytes(99), f"{_REFUSED} 4294967295"
    ),
    "version 9": _leaf(b"\x93NUMPY\x09\0v\0" + bytes(999), _REFUSED),
    "NaN": _leaf(makers.npy(np.full((3, 10, 8), np.nan, np.float32)), "value"),
    "in Fortran's order": _leaf(makers.npy(np.asfortranarray(np.ones((3, 10, 8), "f4"))), "value"),
    "noise behind its data": _leaf(makers.npy(np.zeros((3, 10, 8), "f4")) + b"x", _REFUSED),
    "bytes turned": Case(_STORED, turned, _REFUSED),
    "bytes turned, deflated": Case(
        "deflated.npz", turned, _REFUSED
    ),
    "two million members": Case(_STORED, _directory(1_000_000), f"{_REFUSED} directory"),
    "100000 members": Case(_STORED, _directory(100_000), _REFUSED),
    "5000 arrays": Case(
        _STORED,
        _zip([(f"params/llm/x{i}.npy", makers.npy(np.ones(2, "f4"))) for i in range(5000)]),
        f"{_REFUSED} none of its 5000",
    ),
    "3000 other arrays": Case(_STORED, _zip(
        [("params/llm/final_norm/scale.npy", makers.npy(np.ones(2, "f4")))]
        + [(f"params/llm/layers/x{i}.npy", makers.npy(np.ones(2, "f4"))) for i in range(3000)]),
        f"{_REFUSED} surplus"),
    "a name above": Case(_STORED, _zip([("../x.npy", makers.npy(np.ones(2, "f4")))]), _REFUSED),
    "a name absolute": Case(
        _STORED, _zip([("/etc/x.npy", makers.npy(np.ones(2, "f4")))]), _REFUSED
    ),
    "a name of 60000 letters": Case(
        _STORED, _zip([("a" * 60_000 + ".npy", makers.npy(np.ones(2, "f4")))]), _REFUSED
    ),
    "packed by LZMA": Case(
        _STORED, _zip([("params/x.npy", bytes(9999))], zipfile.ZIP_LZMA), f"{_REFUSED} packed"
    ),
    "packed by bzip2": Case(
        _STORED, _zip([("params/x.npy", bytes(9999))], zipfile.ZIP_BZIP2), f"{_REFUSED} packed"
    ),
    "a tar": Case(_STORED, b"a.npy".ljust(512, b"\0"), f"{_REFUSED} no intact npz"),
    "git-lfs pointer": Case(
        _STORED, b"version https://git-lfs.github.com/spec/v1\n", f"{_REFUSED} git-lfs"
    ),
    "40 GB of NULs": Case(_STORED, size(40 << 30), f"{_REFUSED} no intact npz"),
    "sizes beside it: a list": Case(
        "stored.npz", lambda p: p.with_name("stored.npz.sizes.json").write_text("[]"), _REFUSED
    ),
    "sizes beside it: NaN": Case(
        "stored.npz",
        lambda p: p.with_name("stored.npz.sizes.json").write_text('{"llm": {"attn_softcap": NaN}}'),
        _REFUSED,
    ),
    "sizes beside it: negative": Case(
        "stored.npz",
        lambda p: p.with_name("stored.npz.sizes.json").write_text('{"llm": {"final_softcap": -1}}'),
        _REFUSED,
    ),
    "sizes beside it: others": Case(
        "stored.npz",
        lambda p: p.with_name("stored.npz.sizes.json").write_text('{"llm": {"depth": 10}}'),
        _REFUSED,
    ),
    "codec cut": Case(_CODEC, cut, f"{_REFUSED} no intact npz"),
    "codec, an array missing": Case(_CODEC, _codec(lambda a: a.pop(_BOOK)), f"{_REFUSED} missing"),
    "codec, an array more": Case(_CODEC, _codec(lambda a: a.update(x=np.ones(1))),
                                 f"{_REFUSED} surplus"),
    "codec transposed": Case(_CODEC, _codec(lambda a: a.update({_BOOK: a[_BOOK].T.copy()})),
                             f"{_REFUSED}"),
    "codec with NaN": Case(_CODEC, _codec(lambda a: a[_BOOK].fill(np.nan)), f"{_REFUSED} finite"),
    "codec of objects": Case(_CODEC, _codec(lambda a: a.update({_BOOK: np.array([_Runs()])})),
                             f"{_REFUSED} dtype"),
    "codec of whole numbers": Case(
        _CODEC, _codec(lambda a: a.update({_BOOK: a[_BOOK].astype(int)})), f"{_REFUSED} dtype"
    ),
    "codec of 0 codes": Case(_CODEC, _codec(lambda a: a.update({_BOOK: a[_BOOK][:0]})), _REFUSED),
    "codec of 5000 codes": Case(
        _CODEC, _codec(lambda a: a.update({_BOOK: np.ones((5000, 8), "f4")})), f"{_REFUSED} codes"
    ),
    "codec packed by LZMA": Case(
        _CODEC, _zip([(f"{_BOOK}.npy", bytes(9999))], zipfile.ZIP_LZMA), f"{_REFUSED} compressed"
    ),
    "codec of a million members": Case(_CODEC, _directory(1_000_000), f"{_REFUSED} directory"),
    "codec, a bomb": Case(
        _CODEC, _zip([(f"{_BOOK}.npy", bytes(200 << 20))], zipfile.ZIP_DEFLATED),
        f"{_REFUSED} deflate",
    ),
    "codec of 240 MB": Case(
        _CODEC, lambda path: _zip([
            (f"{name}.npy", makers.npy(np.zeros((60 << 20,), np.float16)))
            for name in (_BOOK, "encoder.0.bias")])(path), f"{_REFUSED} bytes",
    ),
    "codec of 90 MB": Case(
        _CODEC, lambda path: _zip([
            (f"{name}.npy", makers.npy(np.zeros((22 << 20,), np.float16)))
            for name in (_BOOK, "encoder.0.bias")])(path), f"{_REFUSED} missing",
    ),
}  # fmt: skip


_ONE, _INDEX = "one/model.safetensors", "shards/model.safetensors.index.json"
_SHARD = "shards/model-00001-of-00002.safetensors"
_EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
_NORM = "language_model.model.norm.weight"


def _safe(change, expected, tail=b""):
  """The single file with another header, its data as it was."""

  def apply(path):
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    changed = change(header)
    raw = json.dumps(header if changed is None else changed).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data[start:] + tail)

  return Case(_ONE, apply, expected)


def _norm(**fields):
  return lambda header: header[_NORM].update(fields)


def _raw(length, rest, words):
  return Case(_ONE, length.to_bytes(8, "little") + rest, f"{_REFUSED} {words}")


def _index(change, words):
  return Case(_INDEX, edit(change), f"{_REFUSED} {words}")


def _everywhere(shard):
  return lambda c: c.update(weight_map=dict.fromkeys(c["weight_map"], shard))


def _overlapping(header):
  names = [n for n in header if n.endswith("layer_norm1.weight")][:2]
  header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]


def _spare(path, **files):
  """A vocabulary with rows that fill it up, and files of a tokenizer beside it."""
  folder = path.parent
  rng = np.random.default_rng(0)
  sizes = makers.sizes(post_norms=True, num_kv_heads=2)
  sizes["llm"]["vocab_size"] = 64
  params = {
    n: rng.standard_normal(a.shape).astype(a.dtype) for n, a in makers.params(sizes).items()
  }
  makers.write_hf(folder, makers.hf_tensors(params, sizes),
                  {**makers.hf_config(sizes), "_vocab_size": 60})  # fmt: skip
  for name, content in files.items():
    (folder / f"{name}.json").write_bytes(content)


def _named(expected, **files):
  return Case(_ONE, lambda path: _spare(path, **files), expected)


SAFETENSORS = {
    **traps(_ONE, _REFUSED, pipe="regular", device="regular", missing="neither", itself="neither"),
    **traps(_INDEX, _REFUSED, missing="neither", itself="neither"),
    **traps("one/config.json", _REFUSED, pipe="regular"),
    "a header of 2 ** 63": _raw(1 << 63, b"{}", "claims a header"),
    "a header of 2 ** 64 - 1": _raw((1 << 64) - 1, b"{}", "claims a header"),
    "a header of 100 MB": Case(
        _ONE, (100 << 20).to_bytes(8, "little") + b" " * (100 << 20), f"{_REFUSED} claims a header"
    ),
    "7 bytes": Case(_ONE, b"1234567", f"{_REFUSED} claims a header"),
    "a header of 0": _raw(0, b"", "no valid JSON"),
    "no tensor": _raw(2, b"{}", "missing"),
    "a list": _raw(2, b"[]", "JSON object"),
    "not UTF-8": _raw(2, b"\xff\xfe", "UTF-8"),
    "a NUL": _raw(12, b'{"a\\u0000":1}'[:12], ""),
    "deep": _raw(200_000, b"[" * 200_000, "nested"),
    "8 MB of small objects": _raw(8 << 20, b'{"a":[' + b"{}," * ((8 << 20) // 3 - 3) + b"{}]}  "
                                  + bytes(9), "damaged header"),
    "a name twice": _raw(14, b'{"a":1,"a":2} ', "twice"),
    "cut": Case(_ONE, cut, f"{_REFUSED} truncated"),
    "more behind it": Case(_ONE, more(b"x" * 9), f"{_REFUSED} belong to no tensor"),
    "a pickle": Case(_ONE, pickle.dumps(_Runs()), f"{_REFUSED} claims a header"),
    "a zip of pickles": Case(_ONE, _zip([("data.pkl", pickle.dumps(_Runs()))]), _REFUSED),
    "git-lfs pointer": Case(
        _ONE, b"version https://git-lfs.github.com/spec/v1\n", f"{_REFUSED} git"
    ),
    "HTML": Case(_ONE, b"<!doctype html><html>", f"{_REFUSED} HTML"),
    "40 TB": _safe(_norm(shape=[10**7, 10**6], data_offsets=[0, 4 * 10**13]), f"{_REFUSED} beyond"),
    "shape and place differ": _safe(_norm(shape=[9]), f"{_REFUSED} lies at"),
    "float64": _safe(_norm(dtype="F64"), f"{_REFUSED} dtype"),
    "F8": _safe(_norm(dtype="F8_E4M3"), f"{_REFUSED} dtype"),
    "a dtype that is a list": _safe(_norm(dtype=["F32"]), f"{_REFUSED} dtype"),
    "a shape of bools": _safe(_norm(shape=[True]), f"{_REFUSED} damaged header"),
    "a shape of texts": _safe(_norm(shape=["8"]), f"{_REFUSED} damaged header"),
    "a negative shape": _safe(_norm(shape=[-8]), f"{_REFUSED} damaged header"),
    "a shape of 2 ** 64": _safe(_norm(shape=[2**64]), f"{_REFUSED} damaged header"),
    "a shape of 10000 ones": _safe(_norm(shape=[8] + [1] * 9999), f"{_REFUSED} shape"),
    "places turned round": _safe(
        lambda h: h[_NORM].update(data_offsets=h[_NORM]["data_offsets"][::-1]),
        f"{_REFUSED} lies at",
    ),
    "places overlap": _safe(_overlapping, f"{_REFUSED} overlaps"),
    "three places": _safe(_norm(data_offsets=[0, 32, 64]), f"{_REFUSED} lies at"),
    "one more field": _safe(_norm(code="x"), f"{_REFUSED} damaged header"),
    "fields null": _safe(lambda h: h.update({_NORM: None}), f"{_REFUSED} damaged header"),
    "metadata a list": _safe(lambda h: h.update(__metadata__=[1]), "value"),
    "a name of 100000 letters": _safe(
        lambda h: h.update({"a" * 100_000: h.pop(_NORM)}), f"{_REFUSED} 1 missing"
    ),
    "100000 empty tensors": _safe(
        lambda h: h.update({f"language_model.model.layers.{i}.x": {
            "dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(80_000)}),
        f"{_REFUSED} 80000 surplus",
    ),
    "one missing": _safe(lambda h: {k: v for k, v in h.items() if k != _NORM}, _REFUSED),
    "two spellings": _safe(
        lambda h: h.update({f"model.{_NORM}": _EMPTY}),
        f"{_REFUSED} two spellings",
    ),
    "a thousand layers of a config": Case(
        "one/config.json", edit(lambda c: c["text_config"].update(num_hidden_layers=1000)),
        f"{_REFUSED} missing",
    ),
    "an index without a map": Case(_INDEX, b"{}", f"{_REFUSED} weight_map"),
    "a map that is a list": Case(_INDEX, b'{"weight_map": [1]}', f"{_REFUSED} weight_map"),
    "a shard above": _index(_everywhere("../outside/mine"), "plain name"),
    "a shard above that ends well": _index(_everywhere("../one/model.safetensors"), "plain name"),
    "a shard absolute": _index(_everywhere("/etc/passwd.safetensors"), "plain name"),
    "a shard of the network": _index(_everywhere("http://127.0.0.1:9/a.safetensors"), "plain name"),
    "a shard that is a number": _index(_everywhere(5), "plain name"),
    "a shard that is a pickle": _index(_everywhere("pytorch_model.bin"), "plain name"),
    "a shard named '-'": _index(_everywhere("-rf.safetensors"), "plain name"),
    "a shard that is not there": _index(_everywhere("x.safetensors"), "cannot be opened"),
    "all in one shard": _index(_everywhere("model-00001-of-00002.safetensors"), "differs from"),
    "a shard in place of another": Case(
        _SHARD,
        lambda p: p.write_bytes(p.with_name(p.name.replace("00001", "00002")).read_bytes()),
        f"{_REFUSED} differs from",
    ),
    "a shard a link outside": Case(_SHARD, outside, f"{_REFUSED}"),
    "a shard a device": Case(_SHARD, link("/dev/zero"), f"{_REFUSED} regular"),
    "an index twice": Case(_INDEX, b'{"weight_map": {"a": "b", "a": "c"}}', f"{_REFUSED} twice"),
    "an index of 9 MB": Case(_INDEX, b" " * (9 << 20), f"{_REFUSED} limit"),
    "spare rows": _named("value"),
    "a token of 5000 digits": _named(
        f"{_REFUSED} token",
        tokenizer_config=b'{"added_tokens_decoder": {"' + b"9" * 5000 + b'": "a"}}',
    ),
    "a token of a letter": _named(
        f"{_REFUSED} token", tokenizer_config=b'{"added_tokens_decoder": {"x": "a"}}'
    ),
    "tokens in a list": _named("value", tokenizer_config=b'{"added_tokens_decoder": [1, 2]}'),
    "tokens by text": _named(f"{_REFUSED} token", added_tokens=b'{"a": "60"}'),
    "tokens NaN": _named(f"{_REFUSED} NaN", added_tokens=b'{"a": NaN}'),
    "tokens of halves": _named(f"{_REFUSED} token", tokenizer=b'{"added_tokens": [{"id": 1.5}]}'),
    "tokens of 41 MB": _named(f"{_REFUSED} limit", tokenizer=b" " * (41 << 20)),
    "tokens of 39 MB of brackets": _named(
        f"{_REFUSED} values", tokenizer=b'{"a": [' + b"[]," * (13 << 20) + b"[]]}"
    ),
}  # fmt: skip

CASES = {"npz": NPZ, "safetensors": SAFETENSORS}
