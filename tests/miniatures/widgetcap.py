"""Widget Captioning in miniature: screens of 27 x 48 pixels, of RICO's canvas of 1440 x 2560."""

from tests.miniatures import images

_SCREENS = {"train": ("1012", "55"), "dev": ("801", "39"), "test": ("4003", "6")}
_NODES = {"0.0": [0, 0, 1440, 2560], "0.1.0": [144, 256, 720, 1280]}


def make(folder):
  lines = ["screenId,nodeId,captions"]
  for split, ids in _SCREENS.items():
    images.write(folder / f"split/{split}.txt", "\n".join(ids).encode())
    for i in ids:
      images.write(folder / f"combined/{i}.jpg", images.jpeg(int(i), (27, 48)))
      images.write(folder / f"combined/{i}.json", _hierarchy())
      lines += [f"{i},{node},{'|'.join(_captions(node))}" for node in _NODES]
  images.write(folder / "widget_captions.csv", "\r\n".join(lines).encode())


def _hierarchy():
  inner = {"class": "Button", "bounds": _NODES["0.1.0"], "clickable": True}
  children = [{"bounds": _NODES["0.0"]}, {"bounds": [0, 0, 1440, 2560], "children": [inner]}]
  return {"activity_name": "a/b", "activity": {"root": {"children": children}}, "request_id": "1"}


def _captions(node):
  return [f"go to {node}", "next page"]


_BOXES = {"0.0": [0.0, 0.0, 1.0, 1.0], "0.1.0": [0.1, 0.1, 0.5, 0.5]}

EXPECTED = {
  "widgetcap": {
    split: [
      {
        "image_id": f"{i}_{node}",
        "screen_id": i,
        "node_id": node,
        "captions": _captions(node),
        "bbox": box,
      }
      for i in ids
      for node, box in _BOXES.items()
    ]
    for split, ids in _SCREENS.items()
  }
}
