"""Chats, tables and boxes become rows that Jsonl reads."""

import json
import subprocess
import sys

import pytest

from paligemma_jax import sources
from paligemma_jax.core import errors
from paligemma_jax.regions import loc
from tests.miniatures import images
from tools import convert_data


def _convert(tmp_path, kind, content, *more, name="data.json"):
  path = tmp_path / name
  if content is not None:
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
  out = tmp_path / "rows.jsonl"
  convert_data.main([kind, str(path), "--out", str(out), *more])
  return [json.loads(line) for line in out.read_text().splitlines()]


_LLAVA = {
    "id": 1, "image": "a.jpg", "conversations": [
        {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."},
        {"from": "human", "value": "What color?"}, {"from": "gpt", "value": "Red."},
    ],
}  # fmt: skip
_MESSAGES = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "<image>What is it?"},
        {"role": "assistant", "content": "A dog"},
    ],
    "images": ["b.jpg"],
}  # fmt: skip
_PARTS = {
    "messages": [
        {"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "c.jpg"}},
            {"type": "image", "image": "d.jpg"},
            {"type": "text", "text": "Differ?"},
        ]},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
    ],
}  # fmt: skip


@pytest.mark.parametrize("as_lines", [False, True])
def test_the_two_chat_formats_become_questions_and_answers(tmp_path, as_lines, capsys):
  records = [_LLAVA, _MESSAGES, _PARTS, {"messages": _MESSAGES["messages"]}]
  content = "".join(json.dumps(r) + "\n" for r in records) if as_lines else records
  assert _convert(tmp_path, "chat", content) == [
    {"image": "a.jpg", "prefix": "What is it?", "suffix": "A cat."},
    {"image": "a.jpg", "prefix": "What color?", "suffix": "Red."},
    {"image": "b.jpg", "prefix": "What is it?", "suffix": "A dog"},
    {"image": ["c.jpg", "d.jpg"], "prefix": "Differ?", "suffix": "Yes."},
  ]
  logged = capsys.readouterr().out
  assert "4 rows" in logged and "1 answers later in a conversation" in logged
  assert "2 turns of 'system'" in logged and "1 answers without an image" in logged


def test_tables_and_arrays_keep_their_columns(tmp_path):
  table = '\ufefffile;question;answer\na.jpg;"What; now?";x\n'
  row = {"image": "a.jpg", "prefix": "What; now?", "suffix": "x"}
  keys = ("--key", "image=file", "prefix=question", "suffix=answer")
  assert _convert(tmp_path, "csv", table, *keys) == [row]
  assert _convert(tmp_path, "json", [row, row]) == [row, row]
  assert _convert(tmp_path, "json", json.dumps(row, indent=2) * 2) == [row, row]
  with pytest.raises(errors.DataError, match=r"data\.json:3: the row has 3 values, the header 2"):
    _convert(tmp_path, "csv", "a,b\n1,2\n1,2,3\n")
  with pytest.raises(errors.ConfigError, match=r"no column 'fiel'.*'file'"):
    _convert(tmp_path, "csv", table, "--key", "image=fiel")
  with pytest.raises(errors.DataError, match="record 0 has neither messages nor conversations"):
    _convert(tmp_path, "chat", [row])
  with pytest.raises(errors.DataError, match="is not JSON after"):
    _convert(tmp_path, "json", "[1")


def test_boxes_of_the_three_formats_become_the_same_text(tmp_path):
  size, xml = (20, 10), "<object><name>cat</name><bndbox>{}</bndbox></object>"
  corners = "<xmin>3</xmin><ymin>2</ymin><xmax>8</xmax><ymax>5</ymax>"
  for name in ("images/train/a.jpg", "voc/JPEGImages/a.jpg"):
    images.write(tmp_path / name, images.jpeg(0, size))
  images.write(tmp_path / "labels/train/a.txt", b"0 .25 .3 .3 .4\n")
  images.write(tmp_path / "data.yaml", b"train: images/train\nnames: [cat]\n")
  images.write(tmp_path / "voc/Annotations/a.xml", f"<a>{xml.format(corners)}</a>".encode())
  images.write(tmp_path / "voc/ImageSets/Main/train.txt", b"a\n")
  coco = {
      "images": [{"id": 1, "file_name": "a.jpg"}], "categories": [{"id": 1, "name": "cat"}],
      "annotations": [
          {"image_id": 1, "category_id": 1, "bbox": [2, 1, 6, 4]},
          {"image_id": 1, "category_id": 1, "bbox": [2, 1, 6, 4], "iscrowd": 1},
      ],
  }  # fmt: skip
  folder = ("--images", str(tmp_path / "images/train"))
  found = [
    *_convert(tmp_path, "coco", coco, *folder),
    *_convert(tmp_path, "yolo", None, name="data.yaml"),
    *_convert(tmp_path, "voc", None, "--prompt", "detect cat", name="voc"),
  ]
  suffix = loc.format_boxes([(0.1, 0.1, 0.5, 0.4)], ["cat"], bins=1024)
  assert [(row["prefix"], row["suffix"]) for row in found] == [("detect cat", suffix)] * 3
  assert [row["image"] for row in found] == ["a.jpg", "images/train/a.jpg", "a.jpg"]
  rows = sources.Jsonl(str(tmp_path / "rows.jsonl"), images=str(tmp_path / "voc/JPEGImages")).open()
  assert rows[0]["suffix"] == suffix and rows[0]["image"]


def test_the_command_that_messages_name_runs_and_fails_with_a_sentence(tmp_path):
  (tmp_path / "a.json").write_text("[]")
  done = subprocess.run(
      [sys.executable, "-m", "tools.convert_data", "json", str(tmp_path / "a.json"), "--out",
       str(tmp_path / "o")],
      capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 65 and "gives no rows" in done.stderr
  assert "Traceback" not in done.stderr and not (tmp_path / "o").exists()
