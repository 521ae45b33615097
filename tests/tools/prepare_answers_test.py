"""Downloads of question-answering benchmarks that are not what they should be, and their images."""

import io
import json

import numpy as np
import PIL.Image
import pytest

from paligemma_jax import sources
from paligemma_jax.core import errors
from tests.miniatures import chartqa
from tests.miniatures import countbenchqa
from tests.miniatures import images
from tests.miniatures import mmvp
from tests.miniatures import rsvqa_lr
from tests.miniatures import tallyqa
from tests.miniatures import vqav2
from tools.prepare import __main__ as prepare
from tools.prepare import build
from tools.prepare import rsvqa


def built(name, path):
  (dataset,) = prepare.datasets_of(name)
  return build.write(dataset, path / "raw", path / "data")


def test_a_tiff_becomes_a_png_of_the_same_pixels(tmp_path):
  rsvqa_lr.make(tmp_path / "raw")
  built("rsvqa_lr/nonum", tmp_path)
  row = sources.Tfds("rsvqa_lr/nonum", "test", data_dir=str(tmp_path / "data")).open()[0]
  with PIL.Image.open(io.BytesIO(row["image"])) as stored:
    assert stored.format == "PNG"
    with PIL.Image.open(io.BytesIO(images.tiff(row["image_id"]))) as original:
      np.testing.assert_array_equal(np.asarray(stored), np.asarray(original))


@pytest.mark.parametrize("content", [b"no image", "16 bits"])
def test_a_satellite_image_that_cannot_be_kept_exactly_is_named(content, tmp_path):
  if content == "16 bits":
    file = io.BytesIO()
    PIL.Image.fromarray(np.zeros((4, 4), np.uint16)).save(file, "TIFF")
    content = file.getvalue()
  rsvqa_lr.make(tmp_path / "raw")
  (tmp_path / "raw/Images_LR/0.tif").write_bytes(content)
  with pytest.raises(errors.DataError, match=r"Images_LR/0\.tif"):
    built("rsvqa_lr/nonum", tmp_path)


@pytest.mark.parametrize(
  ("number", "text"),
  [
    (0, "0"),
    (1, "between 1 and 10"),
    (10, "between 1 and 10"),
    (11, "between 11 and 100"),
    (100, "between 11 and 100"),
    (101, "between 101 and 1000"),
    (1000, "between 101 and 1000"),
    (1001, "more than 1000"),
  ],
)
def test_the_ranges_of_counts(number, text):
  assert rsvqa.range_of(number) == text


def rewrite(path, change):
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


def test_a_question_without_its_answer_is_named(tmp_path):
  rsvqa_lr.make(tmp_path / "raw")
  rewrite(tmp_path / "raw/LR_split_val_answers.json", lambda c: c["answers"].pop(0))
  with pytest.raises(errors.DataError, match=r"LR_split_val_answers.json has no answer 500"):
    built("rsvqa_lr/nonum", tmp_path)


def test_annotations_of_another_year_are_told(tmp_path):
  vqav2.make(tmp_path / "raw")
  rewrite(tmp_path / "raw/v2_mscoco_train2014_annotations.json", lambda c: c["annotations"].pop(0))
  with pytest.raises(errors.DataError, match="no answers to question 458752000"):
    built("vqav2", tmp_path)


def test_an_image_of_an_unknown_folder_is_named(tmp_path):
  tallyqa.make(tmp_path / "raw")
  rewrite(tmp_path / "raw/test.json", lambda c: c[0].update(image="VG_100K_3/1.jpg"))
  with pytest.raises(errors.DataError, match=r"VG_100K_3/1\.jpg"):
    built("tallyqa", tmp_path)


def test_a_correct_answer_that_is_no_option_is_named(tmp_path):
  mmvp.make(tmp_path / "raw")
  file = tmp_path / "raw/Questions.csv"
  file.write_text(file.read_text().replace("(a) Open (b) Closed,(b)", "(a) Open (b) Closed,(c)"))
  with pytest.raises(errors.DataError, match=r"question 2: the correct answer '\(c\)'"):
    built("mmvp", tmp_path)


def test_questions_that_do_not_belong_to_the_images_are_told(tmp_path):
  countbenchqa.make(tmp_path / "raw")
  rewrite(tmp_path / "raw/countbench_paired_questions.json", lambda c: c.pop())
  with pytest.raises(errors.DataError, match=r"5 images, but .* 4 questions"):
    built("countbenchqa", tmp_path)


def test_a_damaged_file_of_images_is_named(tmp_path):
  countbenchqa.make(tmp_path / "raw")
  (tmp_path / "raw/train-00000-of-00001-cf54c241ba947306.parquet").write_bytes(b"PAR1 not")
  with pytest.raises(errors.DataError, match="no Parquet file"):
    built("countbenchqa", tmp_path)


def test_a_zip_unpacked_into_the_raw_folder_itself_is_found(tmp_path):
  chartqa.make(tmp_path / "made")
  (tmp_path / "made/ChartQA Dataset").rename(tmp_path / "raw")
  assert (built("chartqa/human", tmp_path) / "dataset_info.json").exists()
