"""The check of files for test servers, as a user calls it."""

import dataclasses
import json
import subprocess
import sys

import pytest

from paligemma_jax.core import errors
from paligemma_jax.evals import predictions
from tests import run_train
from tests.miniatures import okvqa
from tools import check_submission
from tools.prepare import __main__ as prepare
from tools.prepare import build

QUESTIONS = {"questions": [{"question_id": 1}, {"question_id": 2}]}


def check(path, content, against):
  file = path / "answers.json"
  file.write_text(content if isinstance(content, str) else json.dumps(content))
  (path / "questions.json").write_text(json.dumps(against))
  return subprocess.run(
      [sys.executable, "tools/check_submission.py", str(file), "--format", "vqav2",
       "--against", str(path / "questions.json")],
      cwd=run_train.ROOT, text=True, capture_output=True, check=False,
  )  # fmt: skip


def test_a_good_file_passes(tmp_path):
  content = [{"question_id": 2, "answer": ""}, {"question_id": 1, "answer": "yes"}]
  done = check(tmp_path, content, QUESTIONS)
  assert done.returncode == 0, done.stderr
  assert done.stdout.endswith("ok, 2 answers, 1 of them empty\n")


def test_a_bad_file_is_told_with_the_exit_code_of_bad_data(tmp_path):
  done = check(tmp_path, [{"question_id": "2", "answer": "yes"}], QUESTIONS)
  assert done.returncode == 65 and done.stdout == ""
  assert "would be rejected" in done.stderr and "Traceback" not in done.stderr
  assert "not of type int: 0 has '2'" in done.stderr
  assert "2 ids that are missing: 1, 2" in done.stderr


def call(monkeypatch, *args):
  monkeypatch.setattr(sys, "argv", ["check_submission.py", *map(str, args)])
  check_submission.main()


@pytest.mark.parametrize(
  ("content", "words"),
  [
    ("[{", "is not JSON"),
    ("", "is not JSON"),
    ("[NaN]", "NaN is not a JSON value"),
    ("[" * 100_000, "is not JSON"),
    ("\xff", "is not JSON"),
  ],
)
def test_a_file_that_is_not_json_is_named(content, words, tmp_path, monkeypatch):
  (tmp_path / "a.json").write_text(content, encoding="latin-1")
  (tmp_path / "q.json").write_text(json.dumps(QUESTIONS))
  with pytest.raises(errors.DataError, match=rf"a\.json.*{words}"):
    call(monkeypatch, tmp_path / "a.json", "--format", "vqav2", "--against", tmp_path / "q.json")


def test_keys_that_come_twice_are_found_though_parsing_hides_them(tmp_path, monkeypatch):
  (tmp_path / "a.json").write_text('{"q": {"direct_answer": "a"}, "q": {"direct_answer": "b"}}')
  (tmp_path / "q.json").write_text('[{"question_id": "q"}]')
  with pytest.raises(errors.DataError, match="1 keys that come twice in one object: 'q'"):
    call(
      monkeypatch, tmp_path / "a.json", "--format", "aokvqa_da", "--against", tmp_path / "q.json"
    )


@pytest.mark.parametrize(
  ("form", "against", "words"),
  [
    ("vqa2", "q.json", "vqav2"),
    ("vqav2", "nonesuch.json", "no file.*dataset and its split"),
    ("vqav2", "nonesuch:test", "paligemma_jax.prepare"),
  ],
)
def test_what_is_not_there_is_named(form, against, words, tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  (tmp_path / "a.json").write_text("[]")
  with pytest.raises(errors.ConfigError, match=words):
    call(monkeypatch, tmp_path / "a.json", "--format", form, "--against", against)


def test_a_missing_file_is_named(tmp_path, monkeypatch):
  with pytest.raises(errors.ConfigError, match=r"a\.json is not a file"):
    call(monkeypatch, tmp_path / "a.json", "--format", "vqav2", "--against", "x")


def test_a_dataset_can_stand_in_for_the_official_file(tmp_path, monkeypatch):
  okvqa.make(tmp_path / "raw")
  (dataset,) = prepare.datasets_of("okvqa")
  build.write(dataset, tmp_path / "raw", tmp_path / "data")
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
  found = check_submission.expected(predictions.FORMATS["vqav2"], "okvqa:val")
  assert found == {31: (), 41: ()}
  with pytest.raises(errors.ConfigError, match="okvqa:val has no column 'caption_id'"):
    other = dataclasses.replace(predictions.FORMATS["vqav2"], column="caption_id")
    check_submission.expected(other, "okvqa:val")
