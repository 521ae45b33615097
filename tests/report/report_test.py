"""Gallery and report: self-contained, safe whatever a text holds, boxes where they belong."""

import base64
import html.parser
import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from PIL import Image

from paligemma_jax.regions import loc
from paligemma_jax.regions import mask_codec
from paligemma_jax.regions import seg
from paligemma_jax.report import report

_HOSTILE = "\"><script>alert(1)</script><img src=x onerror=y>'&amp;\x00\ud800"
_IMAGE = np.arange(20 * 40 * 3, dtype=np.uint8).reshape(20, 40, 3)


class _Document(html.parser.HTMLParser):
  """The elements, the texts, and whether every element is closed."""

  VOID = ("meta", "br", "hr", "img", "link", "input")

  def __init__(self, text):
    super().__init__()
    self.elements, self.texts, self.open = [], [], []
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.texts.append(data)

  def all(self, tag):
    return [attrs for name, attrs in self.elements if name == tag]


def _written(tmp_path, items, **options):
  path = tmp_path / "gallery.html"
  page = report.gallery(items, options.pop("title", "Title"), **options)
  path.write_text(page, "utf-8")
  return _Document(path.read_text("utf-8"))


_TEXT = st.text(st.sampled_from("<>&\"'/;= a\x00\x1b\ud800\u202eé") | st.characters(), max_size=12)
_PARTS = ["<loc0001>", "<loc1023>", "<seg001>" * 16, " ; ", "cat", "<b>"]
_BOX_TEXT = st.lists(st.sampled_from(_PARTS)).map("".join)


@settings(deadline=None, max_examples=60)
@given(texts=st.tuples(*[_TEXT | _BOX_TEXT] * 4), with_before=st.booleans())
def test_no_text_can_add_an_element_or_break_the_page(tmp_path_factory, texts, with_before):
  def made(prompt, target, said, before):
    item = report.GalleryItem(_IMAGE, prompt, target, said, before if with_before else None)
    return _written(tmp_path_factory.getbasetemp(), [item])

  known = {tag for tag, _ in made("p", "<loc0001>" * 4 + "x", "t", "<loc0001>" * 4 + "x").elements}
  known |= {"span", "small", "details", "summary", "i", "p", "rect", "text", "use"}
  assert {tag for tag, _ in made(*texts).elements} <= known


def test_hostile_texts_are_shown_as_they_are_and_nothing_is_loaded(tmp_path):
  table = report.Table(_HOSTILE, (_HOSTILE, "b"), ((_HOSTILE, _HOSTILE),))
  items = [report.GalleryItem(_IMAGE, _HOSTILE, _HOSTILE, _HOSTILE, _HOSTILE)]
  document = _written(tmp_path, items, title=_HOSTILE, tables=[table])
  assert not document.all("script") and not document.all("img")
  shown = _HOSTILE.replace("\x00", "\ufffd").replace("\ud800", "?")
  assert sum(shown in text for text in document.texts) == 10  # Title twice, and all the others.
  (policy,) = [m["content"] for m in document.all("meta") if "http-equiv" in m]
  assert "default-src 'none'" in policy and "script" not in policy
  urls = [v for _, attrs in document.elements for k, v in attrs.items() if k in ("href", "src")]
  assert urls and all(url.startswith(("data:image/", "#")) for url in urls)


def test_the_image_in_the_page_is_the_image(tmp_path):
  document = _written(tmp_path, [report.GalleryItem(_IMAGE, "p", "t", "s")])
  (image,) = document.all("image")
  kind, data = image["href"].removeprefix("data:image/").split(";base64,")
  assert kind == "png"
  np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), _IMAGE)
  large = np.zeros((300, 300, 3), np.uint8)
  (image,) = _written(tmp_path, [report.GalleryItem(large, "p", "t", "s")]).all("image")
  assert image["href"].startswith("data:image/jpeg;")


def test_frames_stand_side_by_side(tmp_path):
  video = np.stack([np.full((10, 12, 3), i, np.uint8) for i in range(20)])
  (svg,) = _written(tmp_path, [report.GalleryItem(video, "p", "t", "s")]).all("svg")
  assert svg["viewbox"] == f"0 0 {8 * 12} 10"


def test_boxes_are_drawn_where_they_are(tmp_path):
  target = "<loc0000><loc0256><loc0512><loc0512> cat"
  said = "<loc0000><loc0000><loc0512><loc0256> dog ; <loc1 x"
  document = _written(tmp_path, [report.GalleryItem(_IMAGE, "p", target, said)])
  true_box, said_box = document.all("rect")
  assert true_box["class"] == "box-target" and said_box["class"] == "box-predicted"
  drawn = [float(true_box[k]) for k in ("x", "y", "width", "height")]
  # Two decimals of a pixel are written.
  assert drawn == pytest.approx([10, 0, 10, 10], abs=0.006)
  texts = " ".join(document.texts)
  assert "overlap 0.00" in texts and "1 unreadable" in texts


def test_masks_are_drawn_where_they_are(tmp_path):
  codec = mask_codec.open_codec()
  mask = np.zeros((100, 200), bool)
  mask[20:80, 50:150] = True
  target = seg.masks_to_text([mask], [None], ["cat"], codec=codec, bins=1024)
  said = seg.masks_to_text([np.roll(mask, 50, axis=1)], [None], ["cat"], codec=codec, bins=1024)
  image = np.zeros((100, 200, 3), np.uint8)
  document = _written(tmp_path, [report.GalleryItem(image, "segment cat", target, said)])
  veils = [v for v in document.all("image") if v.get("class") == "mask"]
  assert [v["width"] for v in veils] == ["200", "200"]
  assert [rect["class"] for rect in document.all("rect")] == ["box-target", "box-predicted"]
  for veil, text in zip(veils, (target, said), strict=True):
    data = base64.b64decode(veil["href"].removeprefix("data:image/png;base64,"))
    drawn = np.asarray(Image.open(io.BytesIO(data)))[..., 3] > 0
    painted = seg.text_to_masks(text, 100, 200, codec=codec, bins=1024)[0].mask
    np.testing.assert_array_equal(drawn, painted)
  texts = " ".join(document.texts)
  assert "overlap 0.3" in texts and "cat" in document.texts  # Half of each, of one and a half.
  assert not any("<seg" in t for t in document.texts if not t.startswith("<loc"))


def test_a_mask_that_cannot_be_read_is_counted(tmp_path):
  box = "<loc0000><loc0000><loc0512><loc0512>"
  items = [report.GalleryItem(_IMAGE, "p", box + "<seg000>" * 16, box + "<seg000>" * 15 + " x")]
  document = _written(tmp_path, items)
  assert "overlap 0.00 · 1 unreadable" in " ".join(document.texts)
  assert "x" in document.texts and len(document.all("rect")) == 2


def test_before_and_after_stand_side_by_side_with_one_copy_of_the_image(tmp_path):
  target = loc.format_boxes([(0, 0, 0.5, 0.5)], ["cat"], bins=1024)
  before = loc.format_boxes([(0, 0, 0.5, 0.25)], ["cat"], bins=1024)
  document = _written(tmp_path, [report.GalleryItem(_IMAGE, "p", target, target, before)])
  assert len(document.all("image")) == len(document.all("use")) == 1
  classes = [rect["class"] for rect in document.all("rect")]
  assert classes == ["box-target", "box-before", "box-target", "box-predicted"]
  texts = " ".join(document.texts)
  assert "overlap 0.50" in texts and "overlap 1.00" in texts
  assert [t for t in document.texts if t in ("target", "before", "after", "prediction")] == [
    "target",
    "before",
    "after",
    "before",
    "after",
    "target",
    "before",
    "after",
  ]  # Legend, the two views, the list.


def test_answers_are_marked_right_or_wrong(tmp_path):
  items = [report.GalleryItem(_IMAGE, "p", "cat", said) for said in ("cat", "dog", "")]
  texts = " ".join(_written(tmp_path, items).texts)
  assert "cat ✓" in texts and "dog ✗" in texts and "(nothing)" in texts


def test_a_gallery_of_nothing_is_a_page(tmp_path):
  assert "0 examples" in _written(tmp_path, []).texts


_SCORES = report.scores_table(
  "Scores",
  {
    "baseline": {"acc": 0.1},
    "before": {"acc": 0.25, "old": 1.0},
    "after": {"acc": 0.9, "num": 200},
  },
)


def test_the_table_of_scores_is_aligned_in_text():
  assert report.text(_SCORES) == "\n".join(
    [
      "Scores",
      "metric  baseline  before  after",
      "------  --------  ------  -----",
      "acc        0.100   0.250  0.900",
      "num            –       –    200",
    ]
  )


def test_the_table_of_scores_is_the_same_in_html():
  document = _Document(report.page("t", report.table_html(_SCORES)))
  cells = [text for text in document.texts if re.search(r"\S", text)]
  expected = "Scores metric baseline before after acc 0.100 0.250 0.900 num – – 200".split()
  assert cells[-13:] == expected


def test_the_report_draws_what_changed_and_leaves_out_what_did_not(tmp_path):
  lines = [
    {"step": 10, "loss": 2.0, "constant": 1.0, "bad": float("nan")},
    {"step": 20, "loss": 1.0, "constant": 1.0, "bad": 3.0, "val/acc": 0.5},
    {"step": 30, "loss": 1.5, "constant": 1.0, "bad": 4.0, "val/acc": 0.75},
  ]
  path = tmp_path / "report.html"
  report.write_report(path, "Run", tables=[_SCORES], lines=lines)
  document = _Document(path.read_text("utf-8"))
  assert [svg["aria-label"] for svg in document.all("svg")] == ["loss", "bad", "val/acc"]
  points = document.all("polyline")[0]["points"].split(" ")
  heights = [float(point.split(",")[1]) for point in points]
  assert heights == [8.0, 110.0, 59.0]  # 2 at the top, 1 at the bottom, 1.5 halfway.


def test_a_report_without_any_line_is_a_page(tmp_path):
  report.write_report(tmp_path / "r.html", "Run", tables=[], lines=[])
  assert not _Document((tmp_path / "r.html").read_text("utf-8")).all("svg")
