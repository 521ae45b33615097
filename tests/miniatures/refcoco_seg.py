"""RefCOCO, RefCOCO+ and RefCOCOg as their zip files unpack: references, instances, pictures.

Pickles are of protocol 2, as Python 2 wrote them. Pictures 1 to 3 are for training, 4 and 5 for
evaluation; picture 3 is for training in RefCOCO alone and in a val split of RefCOCOg.
"""

import pickle

from tests.miniatures import images

_WIDTH, _HEIGHT = 48, 36
_OBJECTS = {  # {annotation: (image, x, y, width, height)}
    11: (1, 4, 6, 20, 12), 12: (1, 24, 18, 12, 12), 21: (2, 0, 0, 48, 36), 31: (3, 12, 9, 24, 18),
    41: (4, 6, 6, 12, 12), 51: (5, 30, 3, 12, 24),
}  # fmt: skip


def _ref(number, annotation, split, *sentences):
  image = _OBJECTS[annotation][0]
  return {
      "ref_id": number, "ann_id": annotation, "image_id": image, "category_id": 18, "split": split,
      "file_name": f"COCO_train2014_{image:012d}_{number}.jpg",
      "sent_ids": [10 * number + i for i in range(len(sentences))],
      "sentences": [
          {"sent_id": 10 * number + i, "sent": s, "raw": f"{s.title()}.", "tokens": s.split()}
          for i, s in enumerate(sentences)
      ],
  }  # fmt: skip


_REFS = {
    "refcoco": ("refs(unc).p", [
        _ref(0, 11, "train", "left dog", "dog on the left"), _ref(1, 12, "train", "small dog"),
        _ref(2, 31, "train", "middle one"), _ref(3, 41, "val", "top left"),
        _ref(4, 51, "testA", "man at right", "right"), _ref(5, 41, "testB", "thing left"),
    ]),
    "refcoco+": ("refs(unc).p", [
        _ref(0, 11, "train", "brown dog", "left dog"), _ref(1, 41, "val", "red thing"),
        _ref(2, 51, "testA", "tall man"), _ref(3, 41, "testB", "square"),
    ]),
    "refcocog": ("refs(umd).p", [
        _ref(0, 21, "train", "a big field of grass"), _ref(1, 31, "val", "the box in the middle"),
        _ref(2, 51, "test", "a man who stands"),
    ]),
}  # fmt: skip


def _annotation(number):
  image, x, y, w, h = _OBJECTS[number]
  outline = [x, y, x + w, y, x + w, y + h, x, y + h]
  return {
      "id": number, "image_id": image, "category_id": 18, "bbox": [x, y, w, h], "area": w * h,
      "iscrowd": 0, "segmentation": [outline],
  }  # fmt: skip


def make(raw):
  """Writes the download below `raw`."""
  used = sorted({image for image, *_ in _OBJECTS.values()})
  for image in used:
    name = f"COCO_train2014_{image:012d}.jpg"
    images.write(raw / "train2014" / name, images.jpeg(image, (_WIDTH, _HEIGHT)))
  for folder, (name, refs) in _REFS.items():
    images.write(raw / folder / name, pickle.dumps(refs, protocol=2))
    content = {
        "images": [
            {"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg", "height": _HEIGHT,
             "width": _WIDTH}
            for i in used
        ],
        "annotations": [_annotation(number) for number in _OBJECTS],
        "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}],
    }  # fmt: skip
    images.write(raw / folder / "instances.json", content)


def _box(number):
  _, x, y, w, h = _OBJECTS[number]
  ends = (y / _HEIGHT, x / _WIDTH, (y + h) / _HEIGHT, (x + w) / _WIDTH)
  return [round(v, 5) for v in ends]


def _flat(number, annotation, sentence):
  return {
      "image_id": _OBJECTS[annotation][0], "question_id": number, "sentence": sentence,
      "box": _box(annotation),
  }  # fmt: skip


EXPECTED = {
  "refcoco_seg/combined": {
    "train": [
      {
        "image_id": 1,
        "boxes": [_box(11), _box(12)],
        "sentences": ["left dog\ndog on the left\nbrown dog", "small dog"],
      },
      {"image_id": 2, "boxes": [_box(21)], "sentences": ["a big field of grass"]},
    ],
  },
  "refcoco_seg/refcoco": {
    "val": [_flat(30, 41, "top left")],
    "testA": [_flat(40, 51, "man at right"), _flat(41, 51, "right")],
    "testB": [_flat(50, 41, "thing left")],
  },
  "refcoco_seg/refcoco_plus": {
    "val": [_flat(10, 41, "red thing")],
    "testA": [_flat(20, 51, "tall man")],
    "testB": [_flat(30, 41, "square")],
  },
  "refcoco_seg/refcocog": {
    "val": [_flat(10, 31, "the box in the middle")],
    "test": [_flat(20, 51, "a man who stands")],
  },
}
