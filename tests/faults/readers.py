"""Every reader of files from strangers: how to make a small valid input for it, and how to read it.

`READERS` maps a name to a `Reader`. Nothing heavy is imported before a reader is used.
"""

import dataclasses
import io
import json
import pathlib
import random
import zipfile
import zlib
from collections.abc import Callable

from tests.faults import mutations
from tests.miniatures import images

ROOT = pathlib.Path(__file__).resolve().parents[2]
_BOX = (
  "<object><name>dog</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>8</xmax><ymax>6</ymax>"
  "</bndbox></object>"
)


@dataclasses.dataclass(frozen=True)
class Reader:
  """One kind of input.

  make: writes the valid input into an empty folder.
  read: reads what is in the folder; told which files were changed.
  repair: makes checksums true again after a change, so that what lies behind them is reached.
  change: of a file's content, where it can be changed behind its checksums or lengths.
  """

  make: Callable[[pathlib.Path], None]
  read: Callable[[pathlib.Path, list[str]], None]
  repair: Callable[[pathlib.Path, list[str]], None] | None = None
  change: Callable[[str, bytes, random.Random], bytes] = mutations.of_file


def _all(source) -> None:
  source.makes()
  rows = source.open()
  rows.fingerprint()
  for i in range(min(len(rows), 20)):
    rows.where(i)
    rows[i]


def _lines(path: pathlib.Path, records) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(record) + "\n" for record in records))


def _make_jsonl(folder):
  images.write(folder / "a.png", images.png(0, (8, 6)))
  rows = [{"image": "a.png", "suffix": "a cat", "n": 1, "more": {"x": [1.5, None]}}] * 3
  _lines(folder / "rows.jsonl", rows)


def _read_jsonl(folder, changed):
  from paligemma_jax import sources

  _all(sources.Jsonl(str(folder / "rows.jsonl"), columns=("suffix",)))


def _make_coco(folder):
  images.write(folder / "a.png", images.png(0, (20, 10)))
  polygon = {"segmentation": [[1, 1, 9, 1, 9, 8, 1, 8]], "area": 56, "iscrowd": 0}
  runs = {"segmentation": {"size": [10, 20], "counts": [90, 10, 100]}, "area": 10, "iscrowd": 0}
  content = {
    "images": [{"id": 1, "file_name": "a.png", "height": 10, "width": 20}],
    "annotations": [
      {"image_id": 1, "category_id": 1, "bbox": [1, 1, 8, 7], "id": i, **kind}
      for i, kind in enumerate((polygon, runs))
    ],
    "categories": [{"id": 1, "name": "x"}],
  }
  (folder / "a.json").write_text(json.dumps(content))


def _read_coco(folder, changed):
  from paligemma_jax import sources

  _all(sources.Coco(str(folder / "a.json"), masks=True))
  _all(sources.Coco(str(folder / "a.json"), crowd=False))


def _make_yolo(folder):
  images.write(folder / "images" / "train" / "a2.png", images.png(0, (20, 10)))
  outlines = b"1 0.1 0.1 0.5 0.1 0.5 0.6\n0 0.1 0.1 0.4 0.1 0.4 0.5 0.1 0.5\n"
  images.write(folder / "labels" / "train" / "a2.txt", outlines)
  images.write(folder / "list.txt", b"./images/train/a2.png\n")
  yaml = b"path: .\ntrain: [images/train, list.txt]\nnc: 2\nnames:\n  0: cat\n  1: dog\n"
  images.write(folder / "data.yaml", yaml)


def _read_yolo(folder, changed):
  from paligemma_jax import sources

  _all(sources.Yolo(str(folder / "data.yaml"), masks=True))


def _make_voc(folder):
  images.write(folder / "JPEGImages" / "a.jpg", images.jpeg(0, (20, 10)))
  xml = f"<annotation>\n<filename>a.jpg</filename>\n{_BOX}\n</annotation>\n"
  images.write(folder / "Annotations" / "a.xml", xml.encode())
  images.write(folder / "ImageSets" / "Main" / "train.txt", b"a  1\n")
  import numpy as np
  from PIL import Image

  image = Image.fromarray(np.pad(np.ones((4, 6), np.uint8), ((2, 4), (2, 12))))
  image.putpalette(range(256))
  buffer = io.BytesIO()
  image.save(buffer, "PNG")
  images.write(folder / "SegmentationObject" / "a.png", buffer.getvalue())


def _read_voc(folder, changed):
  from paligemma_jax import sources

  _all(sources.Voc(str(folder), masks=True))


def _make_hf_dataset(folder):
  saved = ROOT / "tests" / "golden" / "hf_saved"
  for path in saved.rglob("*.*"):
    images.write(folder / path.relative_to(saved), path.read_bytes())


def _read_hf_dataset(folder, changed):
  from paligemma_jax import sources

  _all(sources.HfDataset(str(folder), "train[:3]+val", images=str(folder)))
  _all(sources.HfDataset(str(folder / "train")))


def _make_tfds(folder):
  import numpy as np
  import tensorflow_datasets as tfds

  from tools.prepare import build

  picture = images.png(0, (8, 6))
  dataset = build.Dataset(
    name="few",
    homepage="https://example.org",
    files=(),
    features=lambda: {
      "text": tfds.features.Text(),
      "image": tfds.features.Image(encoding_format="png"),
      "boxes": tfds.features.Sequence({"n": tfds.features.Scalar(np.int64)}),
    },
    splits=lambda raw: {
      "train": [{"text": str(i), "image": picture, "boxes": [{"n": i}]} for i in range(3)]
    },
  )
  build.write(dataset, folder, folder)


def _read_tfds(folder, changed):
  from paligemma_jax import sources

  _all(sources.Tfds("few", data_dir=str(folder)))


def _make_image(folder):
  from tests.hostile import images as hostile

  for name, (maker, decision, *_) in hostile.MAKERS.items():
    if decision == "accept":
      (folder / f"{zlib.crc32(name.encode()):08x}.image").write_bytes(maker())


def _read_image(folder, changed):
  from paligemma_jax.core import errors
  from paligemma_jax.pp import decode
  from paligemma_jax.pp import image_input
  from paligemma_jax.sources import files

  for name in changed:
    try:
      decode.decode_image(files.read_under(str(folder), name), alpha="white")
    except errors.DataError:
      image_input.read(str(folder / name), 28)
      raise


def _make_video(folder):
  from tests.miniatures import clips

  images.write(folder / "clip.mp4", clips.mp4(6, size=(32, 24)))
  for kind, codec in (("avi", "mjpeg"), ("matroska", "mpeg4")):
    images.write(folder / f"clip.{kind}", _video(kind, codec))
  names = [p.name for p in sorted(folder.iterdir())]
  _lines(folder / "rows.jsonl", [{"video": name, "start": 0.1, "end": 0.5} for name in names])


def _video(kind, codec):
  import av
  import numpy as np

  file = io.BytesIO()
  with av.open(file, "w", format=kind) as container:
    stream = container.add_stream(codec, rate=10)
    stream.width, stream.height = 32, 24
    stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    for i in range(4):
      frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), 20 * i, np.uint8), format="rgb24")
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return file.getvalue()


def _read_video(folder, changed):
  from paligemma_jax import sources

  for stride in (2, 0):
    _all(sources.Video(str(folder / "rows.jsonl"), num=3, stride=stride))


def _make_masks(folder):
  polygon = {"height": 10, "width": 20, "segmentation": [[1, 1, 9, 1, 9, 8.5, 1, 8]]}
  runs = {**polygon, "segmentation": {"size": [10, 20], "counts": [90, 10, 100]}}
  text = {**polygon, "segmentation": {"size": [10, 20], "counts": "j2:T3"}}
  for name, content in (("polygon", polygon), ("runs", runs), ("text", text)):
    (folder / f"{name}.json").write_text(json.dumps(content))
  images.write(folder / "mask.png", images.grey_png(0, (20, 10)))


def _read_masks(folder, changed):
  from paligemma_jax.core import errors
  from paligemma_jax.core import strict_json
  from paligemma_jax.regions import rle
  from paligemma_jax.regions import seg
  from paligemma_jax.sources import files

  for name in changed:
    data = files.read_under(str(folder), name)
    if name == "mask.png":
      seg.as_mask(data)
      continue
    try:  # A row's column: it has come through the reader of JSON lines.
      content = strict_json.parse_object(data)
    except strict_json.Malformed as e:
      raise errors.DataError(str(e)) from None
    rle.decode(content.get("segmentation"), 10, 20)


def _make_npz(folder):
  from paligemma_jax.regions import mask_codec
  from tests.checkpoint import makers

  params = makers.params(makers.sizes())
  makers.write_npz(folder / "stored.npz", params)
  makers.write_npz(folder / "deflated.npz", params, deflate=True, prefix="")
  (folder / "codec.npz").write_bytes(mask_codec.EMBEDDED.read_bytes())


def _change_npz(name, data, rng):
  """Often within a member, so that the checksums of the zip file are right."""
  if rng.random() < 0.3:
    return mutations.in_bytes(data, rng)
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    members = {n: archive.read(n) for n in archive.namelist()}
  chosen = rng.choice(list(members))
  size = rng.choice((128, 128, len(members[chosen])))
  content = members[chosen]
  head = rng.choice((mutations.in_numbers, mutations.in_bytes))(content[:size], rng)
  members[chosen] = head + content[size:]
  if rng.random() < 0.2:
    members[rng.choice((chosen + "x", "../x.npy", "params/llm/x.npy", "x"))] = members.pop(chosen)
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w", rng.choice((0, 8))) as archive:
    for n, content in members.items():
      archive.writestr(n, content)
  return buffer.getvalue()


def _read_npz(folder, changed):
  from paligemma_jax.checkpoint import npz
  from paligemma_jax.regions import mask_codec

  for name in changed:
    if name == "codec.npz":
      mask_codec.open_codec(str(folder / name))
    else:
      _read_weights(npz.open_npz(folder / name))


def _read_weights(weights):
  for name in weights.entries:
    weights.read(name)


def _make_safetensors(folder):
  from tests.checkpoint import makers

  sizes = makers.sizes(post_norms=True, num_kv_heads=2)
  tensors = makers.hf_tensors(makers.params(sizes), sizes)
  makers.write_hf(folder / "shards", tensors, makers.hf_config(sizes), num_shards=2)
  makers.write_hf(folder / "one", tensors, makers.hf_config(sizes))


def _change_safetensors(name, data, rng):
  """Often within the header, the length before it made right."""
  if not name.endswith(".safetensors") or rng.random() < 0.3:
    return mutations.of_file(name, data, rng)
  size = int.from_bytes(data[:8], "little")
  header = mutations.in_json(data[8 : 8 + size].decode(), rng).encode("utf-8", "surrogatepass")
  return len(header).to_bytes(8, "little") + header + data[8 + size :]


def _read_safetensors(folder, changed):
  from paligemma_jax.checkpoint import opening

  for name in sorted({name.partition("/")[0] for name in changed}):
    _read_weights(opening.open_weights(folder / name))


def _make_hf_config(folder):
  from tests.checkpoint import makers

  for name, post_norms in (("1", False), ("2", True)):
    config = makers.hf_config(makers.sizes(post_norms=post_norms, num_kv_heads=1))
    (folder / f"{name}.json").write_text(json.dumps(config))
  (folder / "released.json").write_text(
    (ROOT / "tests" / "golden" / "hf_paligemma2" / "config.json").read_text()
  )


def _read_hf_config(folder, changed):
  import math

  from paligemma_jax.checkpoint import hf_config
  from paligemma_jax.checkpoint import opening
  from paligemma_jax.checkpoint import reader
  from paligemma_jax.models import param_table

  for name in changed:
    sizes = hf_config.sizes_of(reader.read_json(folder / name), name)
    numbers = [v for v in {**sizes["img"], **sizes["llm"]}.values() if not isinstance(v, str)]
    assert all(map(math.isfinite, numbers)), numbers
    param_table.shapes(sizes)
    opening.config_of(sizes, dtype="float32")


READERS = {
  "jsonl": Reader(_make_jsonl, _read_jsonl),
  "coco": Reader(_make_coco, _read_coco),
  "yolo": Reader(_make_yolo, _read_yolo),
  "voc": Reader(_make_voc, _read_voc),
  "hf_dataset": Reader(_make_hf_dataset, _read_hf_dataset),
  "tfds": Reader(_make_tfds, _read_tfds),
  "image": Reader(_make_image, _read_image),
  "video": Reader(_make_video, _read_video),
  "masks": Reader(_make_masks, _read_masks),
  "npz": Reader(_make_npz, _read_npz, change=_change_npz),
  "safetensors": Reader(_make_safetensors, _read_safetensors, change=_change_safetensors),
  "hf_config": Reader(_make_hf_config, _read_hf_config),
}
