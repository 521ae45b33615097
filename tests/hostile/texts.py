"""Tokenizers, files of a run, answers and configurations made by hand."""

import json
import os
import struct

from tests.hostile.made import Case
from tests.hostile.made import cut
from tests.hostile.made import edit
from tests.hostile.made import fifo
from tests.hostile.made import link
from tests.hostile.made import more
from tests.hostile.made import outside
from tests.hostile.made import size
from tests.hostile.made import swap
from tests.hostile.made import traps

_MODEL, _JSON, _ADDED = "tokenizer.model", "tokenizer.json", "added_tokens.json"
_NO = "ConfigError"


def _varint(n):
  out = bytearray()
  while n > 127:
    out.append(n & 127 | 128)
    n >>= 7
  return bytes([*out, n])


def _piece(text, score=0.0, kind=1):
  body = b"\x0a" + _varint(len(text)) + text + b"\x15" + struct.pack("<f", score) + b"\x18"
  return b"\x0a" + _varint(len(body) + 1) + body + bytes([kind])


def _behind(data, expected):
  """Fields behind those of the model: a repeated one goes on, a single one counts anew."""

  def apply(path):
    path.with_name(_ADDED).unlink()
    more(data)(path)

  return Case(_MODEL, apply, expected)


def _json(change, expected):
  return Case(_JSON, edit(change), expected)


def _bpe(expected, **values):
  return _json(lambda c: c["model"].update(values), expected)


def _adds(expected, **named):
  return Case(_ADDED, json.dumps(named).encode(), expected)


TOKENIZER = {
    **traps(_MODEL, _NO, empty="empty file", blank="sentencepiece"),
    **traps(_JSON, _NO, empty="JSON", blank="JSON"),
    **traps(_ADDED, _NO, missing="value", pipe="value", folder="value", device="value",
            itself="value", empty="JSON", blank="JSON"),
    "cut": Case(_MODEL, cut, _NO),
    "HTML": Case(_MODEL, b"<!doctype html><html>", f"{_NO} HTML"),
    "git-lfs pointer": Case(
        _MODEL, b"version https://git-lfs.github.com/spec/v1\n", f"{_NO} git-lfs"
    ),
    "JSON in its place": Case(_MODEL, b'{"model": {}}', f"{_NO} tokenizer.json"),
    "a pickle": Case(_MODEL, b"\x80\x02csent\nX\n.", f"{_NO} sentencepiece"),
    "17 MB of NULs": Case(_MODEL, size(17 << 20), f"{_NO} limit"),
    "16 MB of ones": Case(_MODEL, b"\xff" * (16 << 20), f"{_NO} sentencepiece"),
    "a number of 15 MB": _behind(b"\x18" + b"\xff" * (15 << 20) + b"\1", _NO),
    "900000 pieces": _behind(
        b"".join(_piece(b"%x" % i) for i in range(16**5, 16**5 + 900_000)), "value"
    ),
    "300000 pieces": _behind(
        b"".join(_piece(b"%x" % i) for i in range(16**5, 16**5 + 300_000)), "value"
    ),
    "no pieces": Case(_MODEL, b"\x12\x02\x18\x02", _NO),
    "a piece twice": _behind(_piece(b"<pad>"), _NO),
    "an empty piece": _behind(_piece(b""), _NO),
    "a piece that is no UTF-8": _behind(_piece(b"\xff\xfe"), _NO),
    "a piece with half a pair": _behind(_piece(b"\xed\xa0\x80"), _NO),
    "a piece with NUL": _behind(_piece(b"a\0b"), _NO),
    "a piece of 1 MB": _behind(_piece(b"x" * (1 << 20)), _NO),
    "a score NaN": _behind(_piece(b"zzz", float("nan")), "value"),
    "a score infinite": _behind(_piece(b"zzz", float("inf")), "value"),
    "a kind 99": _behind(_piece(b"zzz", kind=99), "value"),
    "a second <unk>": _behind(_piece(b"zzz", kind=2), _NO),
    "a field beyond the end": _behind(b"\x0a\xff\xff\xff\x0f", _NO),
    "a group": _behind(b"\x0b" * 5000, _NO),
    "trainer of other ids": _behind(b"\x12\x03\xc0\x02\x00", "value"),
    "algorithm 9": _behind(b"\x12\x02\x18\x09", "value"),
    "a table of characters that is noise": _behind(b"\x1a\x0a\x12\x08" + b"\xff" * 8, _NO),
    "a table of characters of 10 MB": _behind(
        b"\x1a" + _varint((10 << 20) + 5) + b"\x12" + _varint(10 << 20) + bytes(10 << 20), _NO
    ),
    "json: a list": Case(_JSON, b"[]", f"{_NO} object"),
    "json: UTF-16": Case(_JSON, '{"model": {}}'.encode("utf-16"), f"{_NO} UTF-8"),
    "json: deep": Case(_JSON, b'{"model":' * 10**6, f"{_NO} nested"),
    "json: 41 MB": Case(_JSON, size(41 << 20), f"{_NO} limit"),
    "json: 39 MB of brackets": Case(
        _JSON, b'{"a": [' + b"[]," * (13 << 20) + b"[]]}", f"{_NO} values"
    ),
    "json: 1.5 million objects": Case(
        _JSON, b'{"a": [' + b'{"b":        1},' * 1_499_000 + b"{}]}", f"{_NO} model"
    ),
    "json: 39 MB of text": Case(_JSON, b'{"a": "' + b"x" * (39 << 20) + b'"}', f"{_NO} model"),
    "json: a key twice": Case(_JSON, b'{"model": 1, "model": 2}', f"{_NO} twice"),
    "json: no model": _json(lambda c: {**c, "model": None}, f"{_NO} model"),
    "json: a model of words": _bpe(f"{_NO} WordPiece", type="WordPiece"),
    "json: no bytes": _bpe(f"{_NO} byte_fallback", byte_fallback=False),
    "json: vocabulary a list": _bpe(f"{_NO} form", vocab=[["a", 0]]),
    "json: vocabulary empty": _bpe(_NO, vocab={}),
    "json: ids of texts": _bpe(f"{_NO} form", vocab={"a": "0"}),
    "json: ids true": _bpe(f"{_NO} form", vocab={"a": True}),
    "json: ids negative": _bpe(_NO, vocab={"a": -1}),
    "json: an id of 10 ** 9": _json(
        lambda c: c["model"]["vocab"].update(zzz=10**9), f"{_NO} none with the id"
    ),
    "json: an id twice": _json(lambda c: c["model"]["vocab"].update(zzz=700), f"{_NO} id 700"),
    "json: an empty token": _json(lambda c: c["model"]["vocab"].update({"": 1025}), _NO),
    "json: half a pair": _json(lambda c: c["model"]["vocab"].update({"\ud800": 1024}), _NO),
    "json: merges null": _bpe(f"{_NO} form", merges=None),
    "json: merges of numbers": _bpe(f"{_NO} no pair", merges=[[1, 2]]),
    "json: merges of three": _bpe(f"{_NO} no pair", merges=["a b c"]),
    "json: merges of themselves": _bpe("value", merges=[["a", "a"]] * 10),
    "json: merges of what is not there": _bpe("value", merges=[["zzz", "yyy"]]),
    "json: a million merges": _bpe("value", merges=["a b"] * 10**6),
    "json: merges of 1 MB": _bpe("value", merges=[["a" * (1 << 20), "b"]]),
    "json: added a text": _json(lambda c: c.update(added_tokens="abc"), f"{_NO} no added token"),
    "json: added without ids": _json(lambda c: c.update(added_tokens=[{"content": "a"}]), _NO),
    "json: added far away": _json(
        lambda c: c.update(added_tokens=[{"id": 10**12, "content": "a"}]), f"{_NO} none with the id"
    ),
    "json: added negative": _json(
        lambda c: c.update(added_tokens=[{"id": -7, "content": "a"}]), _NO
    ),
    "json: normalizer of code": _json(
        lambda c: c.update(normalizer={"type": "sent.X"}), f"{_NO} changes texts"
    ),
    "json: normalizer a list": _json(lambda c: c.update(normalizer=[1]), f"{_NO} changes texts"),
    "added: a gap": _adds(f"{_NO} gap", zzz=5000),
    "added: 10 ** 18": _adds(f"{_NO} gap", zzz=10**18),
    "added: an id twice": _adds(f"{_NO} gap", zzz=2176, yyy=2176),
    "added: empty": _adds(_NO, **{"": 2176}),
    "added: in the vocabulary": _adds(_NO, **{"<pad>": 2176}),
    "added: half a pair": _adds(f"{_NO} surrogate", **{"\ud800": 2176}),
    "added: of texts": _adds("value", zzz="2176"),
    "added: a list": Case(_ADDED, b"[1]", f"{_NO} object"),
    "added: a million": Case(
        _ADDED, json.dumps({f"t{i}": 2176 + i for i in range(600_000)}).encode(), f"{_NO} limit"
    ),
}  # fmt: skip

_METRICS, _BAD, _SAID = "metrics.jsonl", "bad_rows.jsonl", "predictions/val/pred-2.jsonl"
_DATA, _OUT, _SETTINGS = "data.json", "out.jsonl", ".out.jsonl.settings.json"
_AT = "WorkdirError"


def _metrics(data, expected="value"):
  return Case(_METRICS, data, expected)


def _data(change, expected=f"{_NO} damaged"):
  return Case(_DATA, edit(change), expected)


def _step(step, **values):
  return json.dumps({"step": step, "loss": 0.5, **values}).encode() + b"\n"


RUN_FILES = {
    **traps(_METRICS, _AT, missing="value", empty="value", blank="value", device="regular",
            pipe="regular"),
    **traps(_BAD, _AT, missing="value", empty="value", blank="value"),
    **traps(_SAID, _AT, missing="value", empty="value", blank="value"),
    **traps("lock", _AT, missing="value", empty="value", blank="value", device="link",
            itself="link", pipe="regular"),
    **traps(_DATA, _NO, missing="value", itself="value"),
    **traps(_OUT, _AT, missing="value", empty="value", blank="ConfigError answer to row 0"),
    "metrics, half a line": _metrics(_step(1) + b'{"step": 2, "lo'),
    "metrics, two lines in one": _metrics(
        _step(1) + b'{"step": {"step": 2, "loss": 1}\n' + _step(3)
    ),
    "metrics of two writers": _metrics(_step(1) + _step(2) + _step(1) + _step(3) + _step(2)),
    "metrics, a step twice": _metrics(_step(1) + _step(1)),
    "metrics, falling": _metrics(_step(3) + _step(2) + _step(1)),
    "metrics of lists": _metrics(b"[1, 2]\n" + _step(1)),
    "metrics of values that are lists": _metrics(_step(1, a=[1]) + _step(2, a={"b": 1})),
    "metrics of words": _metrics(_step(1, a="bad")),
    "metrics, a step true": _metrics(b'{"step": true}\n'),
    "metrics, a step a half": _metrics(_step(1.5)),
    "metrics, a step negative": _metrics(_step(-1)),
    "metrics, a step of 300 digits": _metrics(_step(10**299)),
    "metrics, a step of 5000 digits": _metrics(b'{"step": ' + b"9" * 5000 + b"}\n"),
    "metrics, NaN": _metrics(b'{"step": 1, "loss": NaN}\n' + _step(2, a="NaN")),
    "metrics, a value of 299 digits": _metrics(_step(1, a=10**298)),
    "metrics in UTF-16": _metrics(_step(1).decode().encode("utf-16")),
    "metrics, CRLF and BOM": _metrics(b"\xef\xbb\xbf" + _step(1).replace(b"\n", b"\r\n")),
    "metrics, NULs": _metrics(_step(1) + bytes(4096) + b"\n" + _step(2)),
    "metrics, deep": _metrics(b'{"step":' * 10**5 + b"\n"),
    "metrics, 20 lines of 7 MB of brackets": _metrics(
        (b'{"a": [' + b"[]," * (7 << 18) + b"[]]}\n") * 20
    ),
    "metrics, 900 MB of NULs": _metrics(size(900 << 20)),
    "metrics, 2 GB of NULs": _metrics(size(2 << 30), f"{_AT} limit"),
    "metrics, names of code": _metrics(_step(1, **{"<script>": 1, "__class__": 2, "": 3})),
    "metrics, a hard link": Case(
        _METRICS, lambda p: (p.unlink(), os.link(p.parents[2] / "outside" / "mine", p)), "value"
    ),
    "metrics, a link outside": _metrics(outside),
    "bad rows of texts": Case(_BAD, b'{"row": "3"}\n{"row": 4.5}\n', "value"),
    "bad rows, a row true": Case(_BAD, b'{"row": true}\n', "value"),
    "bad rows, evaluators of lists": Case(_BAD, b'{"row": 1, "evaluator": [1]}\n', "value"),
    "bad rows, half a line": Case(_BAD, b'{"row": 3, "wh', "value"),
    "bad rows, a link outside": Case(_BAD, outside, "value"),
    "bad rows, 900 MB of NULs": Case(_BAD, size(900 << 20), "value"),
    "predictions of lists": Case(_SAID, b'{"row": 1, "text": [1]}\n[1]\n', "value"),
    "predictions, a row twice": Case(_SAID, b'{"row": 1, "text": "a"}\n' * 2, "value"),
    "predictions, half a pair": Case(_SAID, b'{"row": 1, "text": "\\ud800"}\n', "value"),
    "lock of noise": Case("lock", b"\xff" * 9999, "value"),
    "lock of lists": Case("lock", b'{"pid": [1], "host": {}, "since": null}', "value"),
    "lock, a hard link": Case(
        "lock", lambda p: (p.unlink(), os.link(p.parents[2] / "outside" / "mine", p)), f"{_AT} hard"
    ),
    "data a list": Case(_DATA, b"[]", f"{_NO} damaged"),
    "data, rows of texts": _data(lambda c: c.update(num_rows="3")),
    "data, rows true": _data(lambda c: c.update(num_rows=True)),
    "data, rows negative": _data(lambda c: c.update(num_rows=-3), _NO),
    "data, rows 10 ** 299": _data(lambda c: c.update(num_rows=10**299), "value"),
    "data, 0 rows": _data(lambda c: c.update(num_rows=0), "value"),
    "data, a length of 10 ** 12": _data(lambda c: c.update(total=10**12), f"{_NO} longer"),
    "data, changes a text": _data(lambda c: c.update(changes="abc")),
    "data, changes of numbers": _data(lambda c: c.update(changes=[1])),
    "data, changes a dict": _data(lambda c: c.update(changes={"a": 1})),
    "data, a part a list": _data(lambda c: c.update(rows=[1])),
    "data, ops that are no JSON": _data(lambda c: c.update(ops="{"), _NO),
    "data, ops deep": _data(lambda c: c.update(ops="[" * 5000 + "]" * 5000), _NO),
    "data, other rows": _data(lambda c: c.update(rows="jsonl:4"), f"{_NO} not what this run"),
    "data, rows of another file": Case("data_rows.bin", b"x" * 99, "value"),
    "data, rows a pipe": Case("data_rows.bin", fifo, "value"),
    "answers, another row": Case(_OUT, b'{"row": 5}\n', f"{_NO} row 0"),
    "answers, not ours": Case(_OUT, b"hello\n", f"{_NO} row 0"),
    "answers, half a line": Case(_OUT, more(b'{"row": 2, "te'), "value"),
    "answers, half of another's line": Case(_OUT, more(b"hel"), f"{_NO} row 2"),
    "answers, CRLF": Case(_OUT, swap(b"\n", b"\r\n"), "value"),
    "answers, a line of 9 MB": Case(_OUT, b'{"row": 0, "a": "' + b"x" * (9 << 20) + b'"}\n', _NO),
    "answers, a link outside": Case(_OUT, outside, f"{_AT} link"),
    "settings a list": Case(_SETTINGS, b"[1]", f"{_NO} another"),
    "settings missing": Case(_SETTINGS, lambda p: p.unlink(), f"{_NO} another"),
    "settings a device": Case(_SETTINGS, link("/dev/zero"), f"{_NO} another"),
    "settings others": Case(_SETTINGS, edit(lambda c: c.update(ckpt="b")), f"{_NO} another ckpt"),
}  # fmt: skip

_CONFIG, _ANSWER, _BOXES = "config.json", "1.txt", "0.txt"
_LOC, _SEG = "<loc0000><loc0000><loc0512><loc0512>", "<seg000>" * 16


def _config(change, expected=_NO):
  return Case(_CONFIG, edit(change), expected)


def _key(section, expected=_NO, **values):
  return _config(lambda c: c[section].update(values), expected)


def _source(value, expected=_NO):
  return _config(lambda c: c["train"].update(source=value), expected)


def _answer(text, file=_ANSWER):
  data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
  return Case(file, data, "value")


_JSONL = "paligemma_jax.sources.jsonl:Jsonl"

ANSWERS_AND_CONFIG = {
    **traps(_CONFIG, _NO, pipe="regular", device="regular"),
    "config a list": Case(_CONFIG, b"[]", f"{_NO} object"),
    "config {}": Case(_CONFIG, b"{}", _NO),
    "config cut": Case(_CONFIG, cut, _NO),
    "config UTF-16": Case(_CONFIG, lambda p: p.write_text(p.read_text(), "utf-16"), f"{_NO} UTF-8"),
    "config BOM": Case(_CONFIG, lambda p: p.write_text(p.read_text(), "utf-8-sig"), "value"),
    "config deep": Case(_CONFIG, b'{"a":' * 10**6, f"{_NO} nested"),
    "config of 9 MB": Case(_CONFIG, b" " * (9 << 20), f"{_NO} limit"),
    "a key twice": Case(_CONFIG, b'{"seed": 1, "seed": 2}', f"{_NO} twice"),
    "an unknown key": _config(lambda c: c.update(sead=1), f"{_NO} seed"),
    "an unknown key of 1 MB": _config(lambda c: c.update({"a" * (1 << 20): 1}), f"{_NO} no key"),
    "an unknown key in a section": _key("optim", f"{_NO} learning", learning=1),
    "a section a list": _config(lambda c: c.update(optim=[1]), f"{_NO} section"),
    "a section null": _config(lambda c: c.update(model=None), f"{_NO} section"),
    "seed a text": _config(lambda c: c.update(seed="1")),
    "batch_size true": _key("train", batch_size=True),
    "batch_size 0": _key("train", f"{_NO} batch_size", batch_size=0),
    "batch_size 10 ** 299": _key("train", "value", batch_size=10**299),
    "batch_size a half": _key("train", batch_size=0.5),
    "lr NaN": _key("optim", f"{_NO} NaN", lr=float("nan")),
    "lr a text": _key("optim", lr="1e-3"),
    "lr 10 ** 299": _key("optim", "value", lr=10**299),
    "lr negative": _key("optim", lr=-1.0),
    "total a dict": _key("train", total={}),
    "total '1e999 epochs'": _key("train", total="1e999 epochs"),
    "total of 5000 digits": _key("train", total="9" * 5000 + " steps"),
    "total negative": _key("train", total="-5 epochs"),
    "freeze a text": _key("optim", freeze="img/.*"),
    "freeze no regex": _key("optim", freeze=["img/(("]),
    "freeze of numbers": _key("optim", freeze=[1]),
    "freeze that takes for ever": _key("optim", "value", freeze=["(a+)+$"]),
    "rules of three": _key("optim", lr_mults=[["img/.*", 1, 2]]),
    "rules of texts": _key("optim", lr_mults=[["img/.*", "1"]]),
    "rules negative": _key("optim", lr_mults=[["img/.*", -1]]),
    "variant a list": _key("model", variant=["tiny"]),
    "variant nonesuch": _key("model", f"{_NO} variant", variant="nonesuch"),
    "variant code": _key("model", f"{_NO} variant", variant="sent:X"),
    "res -1": _key("model", res=-1),
    "res 2 ** 30": _key("model", res=28 << 30),
    "overrides a list": _key("model", overrides=[1]),
    "overrides of 10 ** 9 layers": _key("model", overrides={"llm": {"depth": 10**9}}),
    "overrides of texts": _key("model", overrides={"llm": {"width": "8"}}),
    "overrides nonesuch": _key("model", overrides={"llm": {"widht": 8}}),
    "overrides of specs": _key("model", overrides={"llm": {"__spec__": _JSONL, "path": "a"}}),
    "rank 10 ** 9": _key("lora", f"{_NO} targets", rank=10**9),
    "source a text": _source("rows.jsonl"),
    "source null": _source(None),
    "source a dict": _source({"path": "a"}),
    "source of the sender": _source({"__spec__": "sent:X"}, f"{_NO} code outside"),
    "source of the system": _source({"__spec__": "os:system"}, _NO),
    "source of Python": _source({"__spec__": "builtins:eval"}, _NO),
    "source by dots": _source(
        {"__spec__": "paligemma_jax.sources.jsonl:os.system"}, f"{_NO} names no"
    ),
    "source a module": _source({"__spec__": "paligemma_jax.sources.jsonl"}, f"{_NO} names no"),
    "source a function": _source(
        {"__spec__": "paligemma_jax.sources.jsonl:parse_line"}, f"{_NO} spec"
    ),
    "source a class that is none": _source({"__spec__": "paligemma_jax.sources.jsonl:JsonlRows"},
                                           f"{_NO} spec"),
    "source above": _source({"__spec__": "paligemma_jax.sources..sent:X"}, f"{_NO} names no"),
    "source of ours that is not there": _source({"__spec__": "paligemma_jax.sources.sent:X"},
                                                f"{_NO} import"),
    "source a number": _source({"__spec__": 5}, f"{_NO} names no"),
    "source of a list": _source({"__spec__": [_JSONL]}, f"{_NO} names no"),
    "source with half a pair": Case(
        _CONFIG, swap(b'"rows.jsonl"', b'"\\ud800"'), f"{_NO} surrogate"
    ),
    "source with another field": _source({"__spec__": _JSONL, "paht": "a"}, f"{_NO} path"),
    "source without a field": _source({"__spec__": _JSONL}, f"{_NO} path"),
    "source with a list for a text": _source({"__spec__": _JSONL, "path": ["a"]}, f"{_NO} text"),
    "source with 'self'": _source({"__spec__": _JSONL, "path": "a", "self": 1}, f"{_NO}"),
    "source with a name of Python": _source({"__spec__": _JSONL, "path": "a", "__class__": 1}, _NO),
    "ops a text": _key("train", pp="decode|resize(224)"),
    "ops of numbers": _key("train", pp=[1]),
    "ops of sources": _key("train", pp=[{"__spec__": _JSONL, "path": "a"}]),
    "evals of one name": _config(lambda c: c.update(evals=c["evals"] + c["evals"])),
    "evals a dict": _config(lambda c: c.update(evals={})),
    "mesh of unknown axes": _config(lambda c: c.update(mesh=[["x", 1]])),
    "answer empty": _answer(""),
    "answer of blanks": _answer(" \n\t;;;;"),
    "answer NUL": _answer(_LOC + "\0"),
    "answer no UTF-8": _answer(b"\xff\xfe" + _LOC.encode()),
    "answer half a pair": _answer(_LOC + _SEG + "\ud800"),
    "answer of 9 MB of ';'": _answer(";" * (9 << 20)),
    "answer of 9 MB of letters": _answer(_LOC + "a" * (9 << 20), _BOXES),
    "answer of a million tokens": _answer("<loc0000>" * 10**6, _BOXES),
    "answer of 200000 boxes": _answer(f"{_LOC} cat ; " * 200_000, _BOXES),
    "answer of 60000 masks": _answer(f"{_LOC}{_SEG} cat ; " * 60_000),
    "answer of seg alone": _answer("<loc" + _SEG * 10_000),
    "answer loc9999": _answer("<loc9999>" * 4 + _SEG),
    "answer seg999": _answer(_LOC + "<seg999>" * 16),
    "answer of other digits": _answer("<loc٠٠٠٠>" * 4),
    "answer inside out": _answer("<loc0900><loc0900><loc0100><loc0100>" + _SEG),
    "answer of nothing": _answer("<loc0500>" * 4 + _SEG),
    "answer nested": _answer("<loc" * 100_000),
    "answer of blanks before": _answer(" " * 10**6 + _LOC, _BOXES),
    "answer of blanks and seg": _answer(f"{_LOC} " + " " * 10**5 + "<seg" + " ;" * 10**5),
}  # fmt: skip

CASES = {"tokenizer": TOKENIZER, "run_files": RUN_FILES, "answers_and_config": ANSWERS_AND_CONFIG}
