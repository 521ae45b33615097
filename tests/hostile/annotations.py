"""Annotation files made by hand: JSON lines, COCO, YOLO and VOC; see also `bombs.ANNOTATIONS`."""

import json
import os

from tests.hostile import images
from tests.hostile import lines
from tests.hostile.made import Case
from tests.hostile.made import cut
from tests.hostile.made import edit
from tests.hostile.made import more
from tests.hostile.made import outside
from tests.hostile.made import swap
from tests.hostile.made import traps

_ROW = b'{"image": "a.png", "suffix": "a cat"}\n'
_MB = 1 << 20


def _row(**values):
  return json.dumps({"image": "a.png", "suffix": "a cat", **values}).encode() + b"\n"


def _lines(data, expected):
  return Case("rows.jsonl", data, expected)


JSONL = {
    **{
        f"line: {name}": _lines(_ROW + line + b"\n", f"DataError {why}")
        for name, (line, why) in lines.MALFORMED.items()
    },
    **traps("rows.jsonl", "ConfigError", empty="value", blank="value"),
    **traps("a.png", "DataError", missing="not in", pipe="regular", folder="directory",
            device="symlink", empty="value", blank="value"),
    "BOM": _lines(b"\xef\xbb\xbf" + _ROW, "value"),
    "CRLF": _lines(_ROW.replace(b"\n", b"\r\n") * 2, "value"),
    "CR alone": _lines(_ROW.replace(b"\n", b"\r") * 2, "DataError Extra data"),
    "UTF-16 file": _lines(_ROW.decode().encode("utf-16"), "DataError UTF-8"),
    "no last newline": _lines(_ROW[:-1], "value"),
    "lines of blanks between": _lines(_ROW + b"  \n\t\n" + _ROW, "value"),
    "two objects on a line": _lines(_ROW[:-1] + _ROW, "DataError Extra data"),
    "pretty-printed": _lines(b'{\n  "image": "a.png",\n  "suffix": "x"\n}\n', "DataError pretty"),
    "an array": _lines(b"[" + _ROW.strip() + b"]\n", "DataError array"),
    "an array of a million": _lines(b"[" + _ROW.strip() + b"," * 10**6 + b"]\n", "DataError"),
    "CSV": _lines(b"image,suffix\na.png,a cat\n", "DataError CSV"),
    "web page": _lines(b"<!doctype html><html>login</html>\n", "DataError HTML"),
    "git-lfs pointer": _lines(b"version https://git-lfs.github.com/spec/v1\n", "DataError git-lfs"),
    "gzip": _lines(b"\x1f\x8b\x08\0" + bytes(50), "DataError archive"),
    "COCO in its place": _lines(
        b'{"images": [], "annotations": [], "categories": []}', "DataError column 'suffix'"
    ),
    "no suffix": _lines(b'{"image": "a.png"}\n', "DataError column 'suffix' is missing"),
    "suffix null": _lines(_row(suffix=None), "DataError null"),
    "image a number": _lines(_row(image=5), "DataError path of a file"),
    "image a dict": _lines(_row(image={"path": "a.png"}), "DataError path of a file"),
    "image true": _lines(_row(image=True), "DataError path of a file"),
    "image ''": _lines(_row(image=""), "DataError path of a file"),
    "image a folder": _lines(_row(image="."), "DataError directory"),
    "images, one a list": _lines(_row(image=["a.png", ["a.png"]]), "DataError path of a file"),
    "images, 1001": _lines(_row(image=["a.png"] * 1001), "DataError 1001 files"),
    "image above": _lines(_row(image="../outside/mine"), "DataError without '..'"),
    "image above, by windows": _lines(_row(image="..\\outside\\mine"), "DataError without '..'"),
    "image far above": _lines(_row(image="x/../../outside/mine"), "DataError without '..'"),
    "image absolute": _lines(_row(image="/etc/passwd"), "DataError relative"),
    "image on a drive": _lines(_row(image="C:\\a.png"), "DataError relative"),
    "image a device": _lines(_row(image="/dev/zero"), "DataError relative"),
    "image in /proc": _lines(_row(image="/proc/self/environ"), "DataError relative"),
    "image an address": _lines(_row(image="http://127.0.0.1:9/x"), "DataError no addresses"),
    "image a file address": _lines(_row(image="file:///etc/passwd"), "DataError no addresses"),
    "image in a bucket": _lines(_row(image="gs://a/b.png"), "DataError no addresses"),
    "image of 5000 characters": _lines(_row(image="a" * 5000), "DataError"),
    "image ~": _lines(_row(image="~/.bashrc"), "DataError not in"),
    "image, its letters": _lines(_row(image="A.PNG"), "value"),
    "image, a link outside": Case("a.png", outside, "DataError symlink"),
    "image, a folder's link": Case(
        "rows.jsonl",
        lambda path: (os.symlink("../../outside", path.parent / "sub"),
                      path.write_bytes(_row(image="sub/mine"))),
        "DataError symlink",
    ),
    "a line of 3 MB": _lines(_row(x="x" * 3 * _MB), "DataError limit"),
    "a line of 200 MB without an end": _lines(
        lambda path: os.truncate(path, 200 * _MB), "DataError limit"
    ),
    "a million empty objects in a line": _lines(b'{"a": [' + b"{}," * 300_000 + b"{}]}",
                                                "DataError column 'suffix'"),
    "a column many levels deep": _lines(
        b'{"suffix": "x", "a": ' + b'{"a": ' * 30 + b"1" + b"}" * 31, "value"
    ),
    "a column named as one that is nested": _lines(_row(**{"a": {"b": 1}, "a/b": 2}), "value"),
    "columns without names": _lines(_row(**{"": {"": {"": 1}}}), "value"),
    "names that differ by form": _lines(b'{"suffix": "x", "e\xcc\x81": 1, "\xc3\xa9": 2}', "value"),
    "a number that overflows": _lines(b'{"suffix": "x", "n": 1e400}', "DataError too large"),
    "a number below all others": _lines(b'{"suffix": "x", "n": 1e-400}', "value"),
}  # fmt: skip


def _coco(change, expected):
  return Case("a.json", edit(change), expected)


def _image(**values):
  return lambda c: c["images"][0].update(values)


def _thing(**values):
  return lambda c: c["annotations"][0].update(values)


def _category(**values):
  return lambda c: c["categories"][0].update(values)


def _outline(value):
  return _thing(segmentation=value)


def _deep(num, text=b'"bbox": [1, 1, 8, 7]', key=b'"bbox": '):
  return swap(text, key + b"[" * num + b"]" * num)


COCO = {
    **traps("a.json", "ConfigError", empty="DataError no JSON", blank="DataError no JSON"),
    **traps("a.png", "DataError", missing="not in", device="symlink"),
    "a list": Case("a.json", b"[]", "DataError expected an object"),
    "null": Case("a.json", b"null", "DataError expected an object"),
    "cut": Case("a.json", cut, "DataError no JSON"),
    "UTF-16": Case("a.json", lambda p: p.write_text(p.read_text(), "utf-16"), "DataError UTF-8"),
    "BOM": Case("a.json", lambda p: p.write_text(p.read_text(), "utf-8-sig"), "value"),
    "more behind it": Case("a.json", more(b"{}"), "DataError Extra data"),
    "NULs behind it": Case("a.json", more(bytes(99)), "DataError Extra data"),
    "no images": _coco(lambda c: {**c, "images": None}, "DataError list 'images'"),
    "image, not images": _coco(lambda c: {"image": c.pop("images"), **c}, "DataError Did you mean"),
    "images a dict": _coco(lambda c: {**c, "images": {"1": {}}}, "DataError list 'images'"),
    "images of numbers": _coco(lambda c: {**c, "images": [1]}, "DataError no object"),
    "a million keys": Case(
        "a.json", json.dumps({f"imag{i}": 0 for i in range(500_000)}).encode(), "DataError list"
    ),
    "an id twice": _coco(lambda c: c["images"].append(c["images"][0]), "DataError id of its own"),
    "an id twice, as a text": _coco(
        lambda c: c["images"].append({**c["images"][0], "id": "1"}), "DataError id of its own"
    ),
    "image id true": _coco(_image(id=True), "DataError id of its own"),
    "image id NaN": _coco(_image(id=float("nan")), "DataError id of its own"),
    "image id a list": _coco(_image(id=[1]), "DataError id of its own"),
    "image id of 4000 digits": Case("a.json", swap(b'"id": 1, "file', b'"id": ' + b"1" * 4000
                                                   + b', "file'), "DataError image_id"),
    "image id of 5000 digits": Case("a.json", swap(b'"id": 1, "file', b'"id": ' + b"1" * 5000
                                                   + b', "file'), "DataError digits"),
    "file_name null": _coco(_image(file_name=None), "DataError coco_url"),
    "file_name above": _coco(_image(file_name="../outside/mine"), "DataError without '..'"),
    "file_name absolute": _coco(_image(file_name="/etc/passwd"), "DataError relative"),
    "file_name with half a pair": _coco(_image(file_name="\ud800.png"), "DataError encoded"),
    "coco_url above": _coco(_image(file_name=None, coco_url="http://a/.."), "DataError '..'"),
    "width another": _coco(_image(width=21), "DataError 20 x 10"),
    "sides swapped": _coco(_image(width=10, height=20), "DataError swapped"),
    "width negative": _coco(_image(width=-20), "DataError whole number"),
    "width a half": _coco(_image(width=20.5), "DataError whole number"),
    "width infinite": _coco(_image(width=float("inf")), "DataError a number"),
    "width true": _coco(_image(width=True), "DataError a number"),
    "width a list": _coco(_image(width=[20]), "DataError a number"),
    "a category twice": _coco(lambda c: c["categories"].append({"id": 1, "name": "y"}),
                              "DataError id of its own"),
    "a category without a name": _coco(_category(name=None), "DataError text"),
    "category names a dict": _coco(lambda c: {**c, "categories": {"1": "x"}}, "DataError list"),
    "category_id 0": _coco(_thing(category_id=0), "DataError no category"),
    "category_id a dict": _coco(_thing(category_id={}), "DataError no category"),
    "all of other images": _coco(lambda c: [a.update(image_id=9) for a in c["annotations"]] and c,
                                 "DataError none of the 2"),
    "bbox null": _coco(_thing(bbox=None), "DataError bbox"),
    "bbox of three": _coco(_thing(bbox=[1, 1, 8]), "DataError bbox"),
    "bbox a dict": _coco(_thing(bbox={"x": 1}), "DataError bbox"),
    "bbox of texts": _coco(_thing(bbox=["1", "1", "8", "7"]), "value"),
    "bbox of lists": _coco(_thing(bbox=[[1], [1], [8], [7]]), "DataError expected a number"),
    "bbox with NaN": _coco(_thing(bbox=[1, 1, float("nan"), 7]), "DataError expected a number"),
    "bbox infinite": _coco(_thing(bbox=[1, 1, float("inf"), 7]), "DataError expected a number"),
    "bbox of bools": _coco(_thing(bbox=[True, True, 8, 7]), "DataError expected a number"),
    "bbox of negative sides": _coco(_thing(bbox=[9, 8, -8, -7]), "DataError minimum above"),
    "bbox outside": _coco(_thing(bbox=[100, 1, 8, 7]), "DataError outside"),
    "bboxes of shares": _coco(
        lambda c: [a.update(bbox=[0.1, 0.1, 0.4, 0.7]) for a in c["annotations"]] and c,
        "DataError fractions",
    ),
    "bbox a text of a deep list": _coco(_thing(bbox="[" * 99_999), "DataError bbox"),
    **{f"bbox {num} levels deep": Case("a.json", _deep(num), "DataError")
       for num in (40, 900, *range(925, 1000, 3), 100_000)},
    **{f"outline {num} levels deep": Case("a.json", _deep(
        num, b'"segmentation": [[1, 1, 9, 1, 9, 8, 1, 8]]', b'"segmentation": '), "DataError")
       for num in (40, 900, *range(925, 1000, 3), 100_000)},
    "area NaN": _coco(_thing(area=float("nan")), "DataError area"),
    "iscrowd 2": _coco(_thing(iscrowd=2), "DataError iscrowd"),
    "iscrowd a list": _coco(_thing(iscrowd=[0]), "DataError iscrowd"),
    "outline {}": _coco(_outline({}), "DataError no mask"),
    "outline a number": _coco(_outline(5), "DataError polygons or run lengths"),
    "outline of two points": _coco(_outline([[1, 1, 9, 1]]), "DataError three points"),
    "outline of an odd number": _coco(_outline([[1, 1, 9, 1, 9, 8, 1]]), "DataError three points"),
    "outline of texts": _coco(_outline([["1", "1", "a", "1", "9", "8"]]), "DataError"),
    "outline of nulls": _coco(_outline([[None] * 6]), "DataError"),
    "outline of bools": _coco(_outline([[True, False, 9, 1, 9, 8]]), "DataError polygon"),
    "outline of lists": _coco(_outline([[[1, 1], [9, 1], [9, 8]]]), "DataError three points"),
    "outline with NaN": _coco(_outline([[1, 1, float("nan"), 1, 9, 8]]), "DataError no number"),
    "outline of dicts, two": _coco(_outline([{}, {}]), "DataError run lengths"),
    "outline far away": _coco(_outline([[1e5, 1e5, 2e5, 1e5, 2e5, 2e5]]), "value"),
    "runs of another size": _coco(_outline({"size": [20, 10], "counts": [200]}), "DataError size"),
    "runs short": _coco(_outline({"size": [10, 20], "counts": [199]}), "DataError add up"),
    "runs negative": _coco(_outline({"size": [10, 20], "counts": [-1, 201]}), "DataError add up"),
    "runs of floats": _coco(_outline({"size": [10, 20], "counts": [200.0]}), "DataError add up"),
    "runs null": _coco(_outline({"size": [10, 20], "counts": None}), "DataError add up"),
    "runs that break off": _coco(_outline({"size": [10, 20], "counts": "j"}), "DataError"),
    "runs of other letters": _coco(_outline({"size": [10, 20], "counts": "é"}), "DataError none"),
    "a label with half a pair": _coco(_category(name="\ud800"), "DataError surrogate"),
    "a label with NUL": _coco(_category(name="a\0b"), "DataError NUL"),
}  # fmt: skip

_YAML = b"path: .\ntrain: images/train\nnames: [cat, dog]\n"
_TXT = "labels/train/a2.txt"
_BOX = b"1 0.5 0.5 0.2 0.2\n"


def _yaml(data, expected):
  return Case("data.yaml", data, expected)


def _label(data, expected):
  return Case(_TXT, data, expected)


YOLO = {
    **traps("data.yaml", "ConfigError", empty="DataError names", blank="DataError"),
    **traps(_TXT, "DataError", missing="label file", pipe="regular", folder="directory",
            device="symlink", empty="value", blank="value"),
    **traps("list.txt", "DataError", device="symlink", empty="value", blank="value"),
    "a list": _yaml(b"- a\n- b\n", "DataError names"),
    "a text": _yaml(b"hello", "DataError names"),
    "a number for a key": _yaml(b"1: a\n", "DataError"),
    "tag python/object": _yaml(_YAML + b"x: !!python/object:sent.X {}\n", "DataError tag"),
    "tag python/name": _yaml(_YAML + b"x: !!python/name:os.system ''\n", "DataError tag"),
    "tag apply": _yaml(b"!!python/object/apply:os.system ['touch ran']\n", "DataError tag"),
    "tag of its own": _yaml(_YAML + b"x: !foo bar\n", "DataError tag"),
    "tag by its whole name": _yaml(_YAML + b"x: !<tag:yaml.org,2002:python/tuple> []\n",
                                   "DataError tag"),
    "alias bomb": _yaml(
        b"a: &a [x,x,x,x,x,x,x,x]\n" + b"".join(
            b"%c: &%c [%s]\n" % (c + 1, c + 1, b",".join([b"*%c" % c] * 8)) for c in range(97, 107)
        ) + _YAML, "DataError alias",
    ),
    "alias of itself": _yaml(b"names: &a [*a]\ntrain: images/train\n", "DataError alias"),
    "merge key": _yaml(b"a: &a {x: y}\n<<: *a\n" + _YAML, "DataError alias"),
    "deep flow": _yaml(b"x: " + b"[" * 200_000, "DataError"),
    "deep blocks": _yaml(b"".join(b" " * i + b"a:\n" for i in range(900)), "DataError nest"),
    "a list for a key": _yaml(b"? [a]\n: b\n" + _YAML, "DataError data.yaml"),
    "two documents": _yaml(_YAML + b"---\n" + _YAML, "DataError data.yaml"),
    "a tab": _yaml(b"names:\n\t- a\n", "DataError data.yaml"),
    "UTF-16": _yaml(_YAML.decode().encode("utf-16"), "value"),
    "BOM": _yaml(b"\xef\xbb\xbf" + _YAML, "value"),
    "latin-1": _yaml(_YAML.replace(b"cat", b"\xe9"), "DataError data.yaml"),
    "NUL": _yaml(_YAML + b"\0", "DataError data.yaml"),
    "1 MB": _yaml(_YAML + b"# x\n" * 300_000, "ConfigError limit"),
    "100000 classes": _yaml(b"train: images/train\nnames: [" + b"a, " * 100_000 + b"b]\n", "value"),
    "no names": _yaml(b"train: images/train\n", "DataError names"),
    "names a text": _yaml(b"train: images/train\nnames: cat\n", "DataError names"),
    "names of lists": _yaml(b"train: images/train\nnames: [[cat], [dog]]\n", "DataError names"),
    "names by text": _yaml(b"train: images/train\nnames: {cat: 0}\n", "DataError names"),
    "names by 10 digits": _yaml(b"train: images/train\nnames: {9999999999: x}\n", "DataError"),
    "no train": _yaml(b"names: [cat, dog]\nval: x\n", "ConfigError split"),
    "train empty": _yaml(b"names: [cat, dog]\ntrain:\n", "ConfigError is empty"),
    "train above": _yaml(_YAML.replace(b"images/train", b"x/../../outside"), "DataError '..'"),
    "train absolute": _yaml(_YAML.replace(b"images/train", b"/etc"), "DataError relative"),
    "train a dict": _yaml(_YAML.replace(b"images/train", b"{a: b}"), "DataError path of a folder"),
    "train of lists": _yaml(_YAML.replace(b"images/train", b"[[a]]"), "DataError path of a folder"),
    "path above": _yaml(_YAML.replace(b"path: .", b"path: ../outside"), "DataError no folder"),
    "path absolute": _yaml(_YAML.replace(b"path: .", b"path: /etc"), "DataError no folder"),
    "path with NUL": _yaml(_YAML.replace(b"path: .", b'path: "a\\0b"'), "DataError"),
    "names with half a pair": _yaml(_YAML.replace(b"cat", b'"\\ud800"'), "DataError"),
    "names with NUL": _yaml(_YAML.replace(b"cat", b'"a\\0b"'), "DataError NUL"),
    "path with half a pair": _yaml(_YAML.replace(b"path: .", b'path: "\\ud800"'), "DataError"),
    "train with half a pair": _yaml(_YAML.replace(b"images/train", b'"\\ud800"'), "DataError"),
    "kpt_shape huge": _yaml(_YAML + b"kpt_shape: [999999999, 999999999]\n", "DataError kpt_shape"),
    "kpt_shape a text": _yaml(_YAML + b"kpt_shape: abc\n", "DataError kpt_shape"),
    "list outside": Case("list.txt", b"../outside/mine\n", "DataError"),
    "list absolute": Case("list.txt", b"/etc/passwd\n" * 9, "DataError"),
    "list in UTF-16": Case("list.txt", "images/train/a2.png\n".encode("utf-16"), "DataError NUL"),
    "list CRLF, BOM": Case("list.txt", b"\xef\xbb\xbfimages/train/a2.png\r\n", "value"),
    "labels a link outside": Case(_TXT, outside, "DataError symlink"),
    "no number": _label(b"cat 0.5 0.5 0.1 0.1\n", "DataError expected numbers"),
    "no number, 5 MB": _label(b"0 x " * 1_300_000, "DataError limit"),
    "UTF-16 labels": _label(_BOX.decode().encode("utf-16"), "DataError expected numbers"),
    "CRLF and BOM": _label(b"\xef\xbb\xbf0 0 0 1 0 1 1\r\n", "value"),
    "commas": _label(b"0,0.5,0.5,0.1,0.1\n", "DataError expected numbers"),
    "underscores": _label(b"0_1 0 0 1 0 1 1\n", "DataError expected numbers"),
    "a hex number": _label(b"0x1 0 0 1 0 1 1\n", "DataError expected numbers"),
    "another class": _label(b"2 0 0 1 0 1 1\n", "DataError class 2"),
    "a negative class": _label(b"-1 0 0 1 0 1 1\n", "DataError class -1"),
    "class a half": _label(b"0.5 0 0 1 0 1 1\n", "DataError class 0.5"),
    "class NaN": _label(b"nan 0 0 1 0 1 1\n", "DataError class nan"),
    "class of 5000 digits": _label(b"9" * 5000 + b" 0 0 1 0 1 1\n", "DataError class inf"),
    "pixels": _label(b"0 10 5 4 2\n", "DataError fractions"),
    "NaN": _label(b"0 nan 0.5 0.1 0.1\n", "DataError fractions"),
    "infinity": _label(b"0 inf 0.5 0.1 0.1\n", "DataError fractions"),
    "a negative side": _label(b"0 0.5 0.5 -0.009 0.1\n", "DataError minimum above"),
    "a box where outlines are due": _label(_BOX, "DataError no mask"),
    "with a confidence": _label(b"0 0.5 0.5 0.1 0.1 0.9\n", "DataError 5 numbers"),
    "the class alone": _label(b"0\n", "DataError 0 numbers"),
    "an odd outline": _label(b"0 0 0 1 0 1 1 1\n", "DataError 7 numbers"),
}  # fmt: skip

_XML = "Annotations/a.xml"
_LIST = "ImageSets/Main/train.txt"
_MASK = "SegmentationObject/a.png"
_THING = (
  b"<object><name>dog</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>8</xmax><ymax>6</ymax>"
  b"</bndbox></object>"
)


def _xml(data, expected):
  return Case(_XML, data, expected)


def _tree(inside=_THING, head=b""):
  return head + b"<annotation><filename>a.jpg</filename>" + inside + b"</annotation>"


def _encoded(name):
  return b'<?xml version="1.0" encoding="' + name + b'"?>'


VOC = {
    **traps(_XML, "DataError", pipe="regular", folder="directory", device="symlink",
            empty="no XML"),
    **traps(_LIST, "ConfigError", empty="value", blank="value"),
    **traps(_MASK, "DataError", missing="not in", pipe="regular", device="symlink"),
    "a file of the system": _xml(
        _tree(b"<a>&x;</a>", b"<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>"),
        "DataError DOCTYPE",
    ),
    "a DTD of the network": _xml(
        _tree(head=b"<!DOCTYPE a SYSTEM 'http://127.0.0.1:9/x.dtd'>"), "DataError DOCTYPE"
    ),
    "a DTD beside it": _xml(_tree(head=b"<!DOCTYPE a SYSTEM '../outside/mine'>"), "DataError DOCT"),
    "parameter entities": _xml(
        _tree(head=b"<!DOCTYPE a [<!ENTITY % x SYSTEM 'file:///etc/passwd'> %x;]>"),
        "DataError DOCTYPE",
    ),
    "an entity that is not declared": _xml(_tree(b"&x;"), "DataError entity"),
    "XInclude": _xml(
        _tree(b'<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="file:///etc/passwd"'
              b' parse="text"/>' + _THING), "value",
    ),
    "a program": _xml(_tree(head=b"<?php system('touch ran'); ?>"), "value"),
    "BOM": _xml(b"\xef\xbb\xbf" + _tree(), "value"),
    "UTF-16": _xml(_tree().decode().encode("utf-16"), "value"),
    "UTF-8 that says UTF-16": _xml(_encoded(b"UTF-16") + _tree(), "DataError encoding"),
    **{f"encoding {name.decode()}": _xml(_encoded(name) + _tree(), "DataError") for name in (
        b"sent", b"UTF-7", b"zlib_codec", b"punycode", b"idna", b"x" * 9999, b"utf-32",
    )},
    **{f"encoding {name.decode()}": _xml(_encoded(name) + _tree(), "value") for name in (
        b"windows-1252", b"latin-1", b"us-ascii", b"koi8-r", b"unicode_escape",
    )},
    "latin-1 that says nothing": _xml(_tree(_THING.replace(b"dog", b"\xe9")), "DataError no XML"),
    "NUL": _xml(_tree() + b"\0", "DataError no XML"),
    "a control character": _xml(_tree(b"&#1;"), "DataError no XML"),
    "half a pair": _xml(_tree(b"&#xD800;"), "DataError no XML"),
    "two roots": _xml(_tree() + _tree(), "DataError no XML"),
    "cut": _xml(_tree()[:-9], "DataError no XML"),
    "JSON": _xml(b"{}", "DataError no XML"),
    "HTML": _xml(b"<!doctype html><html><body>404", "DataError"),
    "17 levels": _xml(_tree(b"<a>" * 17 + b"</a>" * 17), "DataError nested"),
    "an attribute twice": _xml(_tree(b'<a b="1" b="2"/>'), "DataError attribute"),
    "a name of a million letters": _xml(_tree(b"<" + b"a" * 10**6 + b"/>" + _THING), "value"),
    "5 MB": _xml(_tree(b" " * (5 << 20)), "DataError limit"),
    "filename above": _xml(_tree().replace(b"a.jpg", b"../../outside/mine"), "value"),
    "filename absolute": _xml(_tree().replace(b"a.jpg", b"/etc/passwd"), "value"),
    "no name": _xml(_tree(_THING.replace(b"<name>dog</name>", b"")), "DataError no name"),
    "no bndbox": _xml(_tree(b"<object><name>dog</name></object>"), "DataError no bndbox"),
    "no xmin": _xml(_tree(_THING.replace(b"<xmin>2</xmin>", b"")), "DataError xmin"),
    "xmin a text": _xml(
        _tree(_THING.replace(b"<xmin>2", b"<xmin>x")), "DataError expected a number"
    ),
    "xmin NaN": _xml(_tree(_THING.replace(b"<xmin>2", b"<xmin>nan")), "DataError a number"),
    "xmin infinite": _xml(_tree(_THING.replace(b"<xmin>2", b"<xmin>1e999")), "DataError a number"),
    "xmin 1_0": _xml(_tree(_THING.replace(b"<xmin>2", b"<xmin>1_0")), "DataError a number"),
    "xmin of 5000 digits": _xml(
        _tree(_THING.replace(b"<xmin>2", b"<xmin>" + b"9" * 5000)), "DataError a number"
    ),
    "minimum above maximum": _xml(
        _tree(_THING.replace(b"<xmin>2", b"<xmin>10")), "DataError minimum"
    ),
    "outside": _xml(_tree(_THING.replace(b"2</x", b"200</x").replace(b"8</x", b"300</x")),
                    "DataError outside"),
    "of another size": _xml(
        _tree(b"<size><width>99</width><height>10</height></size>" + _THING), "DataError 20 x 10"
    ),
    "size of a text": _xml(_tree(b"<size><width>x</width></size>" + _THING), "DataError width"),
    "difficult 7": _xml(_tree(_THING.replace(b"<bnd", b"<difficult>7</difficult><bnd")),
                        "DataError difficult"),
    "more objects than masks": _xml(_tree(_THING * 3), "value"),
    "list above": Case(_LIST, b"../outside/mine\n", "DataError annotation file"),
    "list absolute": Case(_LIST, b"/etc/passwd\n", "DataError annotation file"),
    "list in UTF-16": Case(_LIST, "a\n".encode("utf-16"), "DataError annotation file"),
    "list of NULs": Case(_LIST, bytes(9), "DataError annotation file"),
    "list CRLF, BOM": Case(_LIST, b"\xef\xbb\xbfa\r\n", "value"),
    "list of other files": Case(_LIST, b"b\nc\n", "DataError annotation file"),
    "a mask of another size": Case(_MASK, images.rgb("PNG"), "DataError"),
    "a mask that is a JPEG": Case(_MASK, images.rgb("JPEG"), "DataError no intact PNG"),
    "a mask cut": Case(_MASK, cut, "DataError no intact PNG"),
}  # fmt: skip

CASES = {"jsonl": JSONL, "coco": COCO, "yolo": YOLO, "voc": VOC}
