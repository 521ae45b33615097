"""Whatever the source, the format and the EXIF: the red object lies under its box after all ops."""

import dataclasses
import io
import json
import pathlib
import tempfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from paligemma_jax import pp
from paligemma_jax import sources
from paligemma_jax.regions import loc
from tools.prepare import build

_RES = 112
_SLACK = 3  # Pixels at 112: resizing and JPEG smear edges over two, tokens round by a tenth.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_KINDS = {"JPEG": (".jpg", ".JPG", ".jpeg", ".jfif"), "PNG": (".png",), "WEBP": (".webp",),
          "TIFF": (".tif",)}  # fmt: skip
_STEMS = ("a", "my cat", "my big cat 1", "Zoë", "Zoe\u0308", "ФОТО", "a.b", "0 1")
_PLACES = ("", "sub/", "Deep/er/")
_SETTINGS = hypothesis.settings(
  max_examples=200,
  deadline=None,
  derandomize=True,
  suppress_health_check=list(hypothesis.HealthCheck),
)


@dataclasses.dataclass(frozen=True)
class Example:
  """An image with one red object, and how it is stored and written down.

  stored, boxed: (height, width) of the file, and of the image that the box is of.
  box: (x_min, y_min, x_max, y_max) in pixels of that.
  exif: whether that is the upright one.
  """

  data: bytes
  stored: tuple
  boxed: tuple
  box: tuple
  exif: bool
  orientation: int
  name: str
  as_text: bool

  @property
  def shares(self):
    """(x_min, y_min, x_max, y_max)"""
    return tuple(v / side for v, side in zip(self.box, self.boxed[::-1] * 2, strict=True))

  def number(self, value):
    """A number, or the text of it."""
    return str(value) if self.as_text else value


def _example(integer, choice):
  """An Example of whole numbers and choices that are drawn by these."""
  height, width = integer(24, 90), integer(24, 90)
  sides = [integer(side // 3, side) for side in (width, height)]
  x, y = integer(0, width - sides[0]), integer(0, height - sides[1])
  box = (x, y, x + sides[0], y + sides[1])
  pixels = np.full((height, width, 3), 255, np.uint8)
  pixels[box[1] : box[3], box[0] : box[2]] = (250, 10, 10)
  exif, orientation = choice((False, True)), integer(1, 8)
  boxed = stored = Image.fromarray(pixels)
  if exif and orientation > 1:  # What EXIF turns into the image that was boxed.
    back = {6: 8, 8: 6}.get(orientation, orientation)
    stored = boxed.transpose(_TURNS[back])
  kind = choice(sorted(_KINDS))
  block = Image.Exif()
  block[0x112] = orientation
  options = {"JPEG": dict(quality=95, subsampling=0), "WEBP": dict(lossless=True)}.get(kind, {})
  buffer = io.BytesIO()
  stored.save(buffer, kind, exif=block, **options)
  name = choice(_PLACES) + choice(_STEMS) + choice(_KINDS[kind])
  return Example(
      buffer.getvalue(), stored.size[::-1], boxed.size[::-1], box, exif, orientation, name,
      choice((False, True)),
  )  # fmt: skip


@st.composite
def examples(draw):
  """An Example."""
  return _example(
    lambda low, high: draw(st.integers(low, high)), lambda values: draw(st.sampled_from(values))
  )


def _write(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content if isinstance(content, bytes) else content.encode())


def _is_red(image):
  return (image[..., 0] > 150) & (image[..., 1] < 130) & (image[..., 2] < 130)


def _check(row, ops):
  """Runs the ops; what the text names is red, and nothing else is."""
  for op in ops:
    row = op(row, np.random.default_rng(0))
  (box,), (label,) = loc.parse_boxes(row["suffix"], bins=1024)[:2]
  y_min, x_min, y_max, x_max = (round(v * _RES) for v in box)
  red = _is_red(row["image"])
  inside = red[y_min + _SLACK : y_max - _SLACK, x_min + _SLACK : x_max - _SLACK]
  assert label == "red thing" and inside.size and inside.all()
  grown = np.zeros_like(red)
  grown[max(y_min - _SLACK, 0) : y_max + _SLACK, max(x_min - _SLACK, 0) : x_max + _SLACK] = True
  assert not (red & ~grown).any()


def _check_row(example, row, ops):
  """As `_check`, and of a source of annotated images that size and mask agree."""
  assert (row["height"], row["width"]) == example.boxed
  (mask,) = row["masks"]
  x_min, y_min, x_max, y_max = example.box
  expected = np.zeros(example.boxed, bool)
  expected[y_min:y_max, x_min:x_max] = True
  np.testing.assert_array_equal(mask, expected)
  decoded = ops[0](row, np.random.default_rng(0))
  np.testing.assert_array_equal(_is_red(decoded["image"]), mask)
  _check(row, ops)


def _ops(exif, **boxes):
  """Decode's own `exif` is any: the source's counts."""
  decode, resize = pp.Decode(exif=exif), pp.Resize(_RES)
  make = pp.Boxes(bins=1024, **boxes)
  return (decode, make, resize)


@_SETTINGS
@hypothesis.given(examples(), st.booleans(), st.booleans())
def test_coco(example, decode_exif, auto):
  x_min, y_min, x_max, y_max = example.box
  number, (height, width) = example.number, example.boxed
  # The file's size tells which image is meant, if the image is turned by 90°.
  auto = auto and (example.exif or (example.orientation >= 5 and height != width))
  outline = [float(v) for v in (x_min, y_min, x_max, y_min, x_max, y_max, x_min, y_max)]
  box = [number(v) for v in (x_min, y_min, x_max - x_min, y_max - y_min)]
  annotation = {
      "id": 1, "image_id": number(7), "category_id": 3, "iscrowd": number(0),
      "area": number(20.5), "bbox": json.dumps(box) if example.as_text else box,
      "segmentation": json.dumps([outline]) if example.as_text else [outline],
  }  # fmt: skip
  image = {"id": 7, "file_name": example.name, "height": number(height), "width": width}
  content = {
      "images": [image], "annotations": [annotation],
      "categories": [{"id": number(3), "name": "red thing"}],
  }  # fmt: skip
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    _write(root / "images" / example.name, example.data)
    mark = b"\xef\xbb\xbf" if example.as_text else b""
    _write(root / "a.json", mark + json.dumps(content).encode())
    exif = "auto" if auto else example.exif
    source = sources.Coco(str(root / "a.json"), images=str(root / "images"), masks=True, exif=exif)
    _check_row(example, source.open()[0], _ops(decode_exif))


@_SETTINGS
@hypothesis.given(examples(), st.booleans())
def test_yolo(example, decode_exif):
  x_min, y_min, x_max, y_max = example.shares
  outline = f"0 {x_min} {y_min} {x_max} {y_min} {x_max} {y_max} {x_min} {y_max}\r\n"
  folders = ("Images", "Labels") if example.as_text else ("images", "labels")
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    _write(root / folders[0] / "train" / example.name, example.data)
    label = pathlib.PurePosixPath(example.name).with_suffix(".txt")
    mark = b"\xef\xbb\xbf" if example.as_text else b""
    _write(root / folders[1] / "train" / label, mark + outline.encode())
    listed = f".\\{folders[0]}\\train\\".replace("/", "\\") + example.name.replace("/", "\\")
    _write(root / "list.txt", listed + "\n")
    place = "list.txt" if example.as_text else f"{folders[0]}/train"
    _write(root / "data.yaml", f"train: {place}\nnames: [red thing]\n")
    source = sources.Yolo(str(root / "data.yaml"), masks=True, exif=example.exif)
    _check_row(example, source.open()[0], _ops(decode_exif))
    x, y, w, h = (x_min + x_max) / 2, (y_min + y_max) / 2, x_max - x_min, y_max - y_min
    _write(root / folders[1] / "train" / label, f"0 {x} {y} {w} {h} 0.5 0.5 1\n")
    _write(root / "data.yaml", f"train: {place}\nkpt_shape: [1, 3]\nnames: [red thing]\n")
    _check(source.replace(masks=False).open()[0], _ops(decode_exif))


@_SETTINGS
@hypothesis.given(examples(), st.booleans(), st.sampled_from(["", "name", "stem", "elsewhere"]))
def test_voc(example, decode_exif, named):
  x_min, y_min, x_max, y_max = example.box
  height, width = example.boxed
  stem, _, ending = example.name.rpartition(".")
  last = stem.rpartition("/")[2]
  named = {"name": f"{last}.{ending}", "stem": last, "elsewhere": "C:\\x\\b.bmp"}.get(named, "")
  size = f"<size><width>{width}</width><height>{height}</height></size>" if example.exif else ""
  xml = (
    f"<annotation><filename>{named}</filename>{size}<object><name>red thing</name><difficult>0"
    f"</difficult><bndbox><xmin>{x_min + 1}</xmin><ymin>{y_min + 1}.0</ymin><xmax>{x_max}</xmax>"
    f"<ymax>{y_max}</ymax></bndbox></object></annotation>"
  )
  numbers = np.zeros(example.boxed, np.uint8)
  numbers[y_min:y_max, x_min:x_max] = 1
  mask = Image.fromarray(numbers)
  mask.putpalette(range(256))
  buffer = io.BytesIO()
  mask.save(buffer, "PNG")
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    _write(root / "JPEGImages" / example.name, example.data)
    _write(root / "Annotations" / f"{stem}.xml", xml)
    _write(root / "SegmentationObject" / f"{stem}.png", buffer.getvalue())
    flag = "  1" if example.as_text else ""
    line = stem.replace("/", "\\") if example.as_text else stem
    _write(root / "ImageSets" / "Main" / "train.txt", f"{line}{flag}\r\n")
    exif = "auto" if size else False
    for split in ("train", ""):
      source = sources.Voc(str(root), split, masks=True, exif=exif)
      _check_row(example, source.open()[0], _ops(decode_exif))


def _written(example, order, pixels):
  x_min, y_min, x_max, y_max = example.box if pixels else example.shares
  return {
      "yxyx": (y_min, x_min, y_max, x_max), "xyxy": (x_min, y_min, x_max, y_max),
      "xywh": (x_min, y_min, x_max - x_min, y_max - y_min),
  }[order]  # fmt: skip


_ORDERS = st.sampled_from(["yxyx", "xyxy", "xywh"])


@_SETTINGS
@hypothesis.given(examples(), _ORDERS, st.booleans(), st.sampled_from(["dict", "list", "flat"]))
def test_jsonl(example, order, pixels, layout):
  box = [example.number(v) for v in _written(example, order, pixels)]
  layouts = {
    "dict": {"objects": {"bbox": [box], "category": ["red thing"]}},
    "list": {"objects": [{"bbox": box, "category": "red thing"}]},
    "flat": {"objects/bbox": json.dumps([box]), "objects/category": '["red thing"]'},
  }
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    _write(root / "images" / example.name, example.data)
    name = example.name.replace("/", "\\") if example.as_text else example.name
    _write(root / "rows.jsonl", json.dumps({"image": name, **layouts[layout]}) + "\n")
    row = sources.Jsonl(str(root / "rows.jsonl"), images=str(root / "images")).open()[0]
    columns = dict(key="objects/bbox", labels="objects/category", order=order, pixels=pixels)
    _check(row, _ops(example.exif, **columns))


def _save(folder, pyarrow, example, box, layout):
  """A dataset as `datasets` saves it."""
  image = {"bytes": example.data, "path": None}
  numbers = pyarrow.list_(pyarrow.float64())
  if layout == "list":  # `datasets` 4 and later; a list in dataset_info.json before.
    objects = [{"bbox": box, "category": 1}]
    kind = pyarrow.list_(pyarrow.struct([("bbox", numbers), ("category", pyarrow.int64())]))
    inner = {"bbox": {"_type": "Value"}, "category": {"_type": "ClassLabel", "names": _CLASSES}}
    described = [inner] if example.as_text else {"_type": "List", "feature": inner}
  else:
    objects = {"bbox": [box], "category": [1]}
    lists = [("bbox", pyarrow.list_(numbers)), ("category", pyarrow.list_(pyarrow.int64()))]
    kind = pyarrow.struct(lists)
    label = {"_type": "ClassLabel", "names": _CLASSES}
    described = {"bbox": {"_type": "List"}, "category": {"_type": "List", "feature": label}}
  picture = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
  columns = [pyarrow.array([image], picture), pyarrow.array([objects], kind)]
  table = pyarrow.table(columns, names=["image", "objects"])
  folder.mkdir()
  with pyarrow.OSFile(str(folder / "data.arrow"), "wb") as file:
    with pyarrow.ipc.new_stream(file, table.schema) as stream:
      stream.write_table(table)
  features = {"image": {"_type": "Image"}, "objects": described}
  _write(folder / "dataset_info.json", json.dumps({"features": features}))
  state = {"_data_files": [{"filename": "data.arrow"}], "_fingerprint": "x", "_split": "train"}
  _write(folder / "state.json", json.dumps(state))


_CLASSES = ["blue thing", "red thing"]


@_SETTINGS
@hypothesis.given(examples(), _ORDERS, st.booleans(), st.sampled_from(["dict", "list"]))
def test_hugging_face(example, order, pixels, layout):
  pyarrow = pytest.importorskip("pyarrow")
  box = [float(v) for v in _written(example, order, pixels)]
  with tempfile.TemporaryDirectory() as folder:
    saved = pathlib.Path(folder) / "saved"
    _save(saved, pyarrow, example, box, layout)
    row = sources.HfDataset(str(saved), names=("objects/category",)).open()[0]
    assert set(sources.HfDataset(str(saved)).makes()) == set(row)
    columns = dict(key="objects/bbox", labels="objects/category", order=order, pixels=pixels)
    _check(row, _ops(example.exif, **columns))


def test_tfds(tmp_path):
  tfds = pytest.importorskip("tensorflow_datasets")
  rng = np.random.default_rng(0)
  made = [  # One dataset of 200, as building it takes seconds.
    _example(lambda a, b: int(rng.integers(a, b + 1)), lambda v: v[int(rng.integers(len(v)))])
    for _ in range(200)
  ]
  box = tfds.features.Tensor(shape=(4,), dtype=np.float32)
  label = tfds.features.ClassLabel(names=_CLASSES)
  dataset = build.Dataset(
      name="red",
      homepage="https://example.org",
      files=(),
      features=lambda: {
          "i": tfds.features.Scalar(np.int64),
          "image": tfds.features.Image(),
          "objects": tfds.features.Sequence({"bbox": box, "label": label}),
      },
      splits=lambda raw: {
          "train": [
              {
                  "i": i,
                  "image": io.BytesIO(example.data),
                  "objects": [{
                      "bbox": np.array(_written(example, "yxyx", i % 2), np.float32), "label": 1
                  }],
              }
              for i, example in enumerate(made)
          ]
      },
  )  # fmt: skip
  build.write(dataset, tmp_path, tmp_path / "data")
  source = sources.Tfds("red", data_dir=str(tmp_path / "data"), names=("objects/label",))
  rows = source.open()
  for i in range(len(made)):  # In an order of TFDS's own.
    example = made[rows[i]["i"]]
    columns = dict(key="objects/bbox", labels="objects/label", pixels=bool(rows[i]["i"] % 2))
    _check(rows[i], _ops(example.exif, **columns))
