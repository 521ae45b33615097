"""COCO's average precision: equal to pycocotools' on recorded cases, and right by hand."""

import json
import pathlib

import numpy as np
import pytest

from paligemma_jax.evals import detection

_GOLDEN = json.loads(
  (pathlib.Path(__file__).parents[1] / "golden" / "coco_map.json").read_text("utf-8")
)["cases"]


def _pictures(case):
  """What `mean_average_precision` takes, from a recorded case."""
  pictures = []
  for i in range(case["num_images"]):
    picture = {}
    for k in range(case["num_classes"]):
      true = [t for t in case["truths"] if t[:2] == [i, k]]
      found = [f for f in case["found"] if f[:2] == [i, k]]
      if true or found:
        picture[str(k)] = (
          detection.GroundTruth(
            np.array([t[2] for t in true], float).reshape(-1, 4),
            np.array([t[3] for t in true], bool),
            np.array([t[4] for t in true], float),
          ),
          detection.Detections(
            np.array([f[2] for f in found], float).reshape(-1, 4),
            np.array([f[3] for f in found], float),
          ),
        )
    pictures.append(picture)
  return pictures


@pytest.mark.parametrize("name", list(_GOLDEN))
def test_every_number_equals_that_of_pycocotools(name):
  case = _GOLDEN[name]
  found = detection.mean_average_precision(_pictures(case))
  assert set(found) == set(case["expected"])
  for key, value in case["expected"].items():
    assert found[key] == pytest.approx(value, rel=0, abs=1e-6), key


@pytest.mark.parametrize("name", list(_GOLDEN))
def test_the_mean_over_classes_is_that_of_pycocotools(name):
  # pycocotools' AP of a class is the mean over precision[:, :, k]; all classes that are there have
  # equally many entries, so the mean of these means is its AP of all.
  case = _GOLDEN[name]
  found = detection.mean_average_precision(_pictures(case), by_class=True)
  for all_of, of_class in (("map", "ap/"), ("map50", "ap50/")):
    values = [value for key, value in found.items() if key.startswith(of_class)]
    true = {t[1] for t in case["truths"] if not t[3]}
    assert len(values) == len(true) or case["expected"][all_of] == -1
    if values:
      assert np.mean(values) == pytest.approx(case["expected"][all_of], rel=0, abs=1e-6)


def _single(true, found, scores, crowd=()):
  crowd = np.array(crowd or [False] * len(true), bool)
  true, found = (np.array(b, float).reshape(-1, 4) for b in (true, found))
  target = detection.GroundTruth(true, crowd, true[:, 2] * true[:, 3])
  detections = detection.Detections(found, np.array(scores, float))
  return detection.mean_average_precision([{"cat": (target, detections)}])


_A, _B = (0, 0, 50, 50), (100, 100, 50, 50)


def test_by_hand():
  assert _single([_A, _B], [_A, _B], [0.9, 0.8])["map"] == pytest.approx(1)
  # The first half of the recalls at precision 1 (51 of 101), the rest at 2 / 3.
  found = _single([_A, _B], [_A, (300, 0, 50, 50), _B], [0.9, 0.8, 0.7])
  assert found["map50"] == pytest.approx((51 + 50 * 2 / 3) / 101, rel=0, abs=1e-9)
  assert found["map_medium"] == pytest.approx(found["map50"]) and found["map_small"] == -1
  assert (found["ar1"], found["ar10"]) == (0.5, 1.0)
  # IoU 0.8: right at 7 of the 10 overlaps.
  found = _single([(0, 0, 100, 100)], [(0, 0, 100, 80)], [0.5])
  assert (found["map"], found["map75"]) == (pytest.approx(0.7), pytest.approx(1))


def test_a_crowd_counts_neither_for_nor_against():
  crowd = (0, 0, 100, 100)
  alone = _single([_B], [_B], [0.5])
  inside = [(10 * i, 10 * i, 30, 30) for i in range(5)]
  with_crowd = _single([crowd, _B], [*inside, _B], [0.9] * 5 + [0.5], crowd=[True, False])
  assert with_crowd["map"] == pytest.approx(alone["map"]) and alone["map"] == pytest.approx(1)
  assert with_crowd["ar100"] == 1.0
  without = _single([_B], [*inside, _B], [0.9] * 5 + [0.5])
  assert without["map"] == pytest.approx(1 / 6)


def test_the_order_of_scores_decides_not_the_order_in_the_text():
  good = _single([_A], [(300, 0, 50, 50), _A], [0.1, 0.9])
  bad = _single([_A], [(300, 0, 50, 50), _A], [0.9, 0.1])
  assert (good["map"], bad["map"]) == (pytest.approx(1), pytest.approx(0.5))
