"""Files for test servers: the exact format of each, and every way in which one can be wrong."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma_jax import evals
from paligemma_jax.core import errors
from paligemma_jax.evals import predictions
from tests import run_train
from tools import check_submission

# What the servers' own pages show; the id as our dataset has it.
WRITTEN = {
  "aokvqa_da": ("22MexNkBPpdZ", {"22MexNkBPpdZ": {"direct_answer": "cab"}}),
  "aokvqa_mc": ("22MexNkBPpdZ", {"22MexNkBPpdZ": {"multiple_choice": "cab"}}),
  "coco_captions": (57870, [{"image_id": 57870, "caption": "cab"}]),
  "docvqa": (57344, [{"questionId": 57344, "answer": "cab"}]),
  "gqa": ("201307251", [{"questionId": "201307251", "prediction": "cab"}]),
  "infovqa": (98305, [{"questionId": 98305, "answer": "cab"}]),
  "nocaps": (0, [{"image_id": 0, "caption": "cab"}]),
  "stvqa": (16, [{"question_id": 16, "answer": "cab"}]),
  "textvqa": (39602, [{"question_id": 39602, "answer": "cab"}]),
  "vizwiz": (
    "VizWiz_test_00000000.jpg",
    [{"image": "VizWiz_test_00000000.jpg", "answer": "cab"}],
  ),
  "vqav2": (262144005, [{"question_id": 262144005, "answer": "cab"}]),
}
# The official files of questions, cut to what is read and one thing that is not.
OFFICIAL = {
  "aokvqa_da": [{"question_id": "22MexNkBPpdZ", "choices": ["cab", "bus"]}],
  "aokvqa_mc": [{"question_id": "22MexNkBPpdZ", "choices": ["cab", "bus"]}],
  "coco_captions": {"info": {}, "images": [{"id": 57870, "file_name": "x.jpg"}]},
  "docvqa": {"dataset_name": "docvqa", "data": [{"questionId": 57344, "docId": 1}]},
  "gqa": {"201307251": {"imageId": "n161313", "question": "Is it?"}},
  "infovqa": {"dataset_name": "infographicVQA", "data": [{"questionId": 98305}]},
  "nocaps": {"images": [{"id": 0, "open_images_id": "0013ea2087020901"}]},
  "stvqa": {"dataset_name": "ST-VQA", "data": [{"question_id": 16, "file_name": "x.jpg"}]},
  "textvqa": {"dataset_type": "test", "data": [{"question_id": 39602, "image_id": "f"}]},
  "vizwiz": [{"image": "VizWiz_test_00000000.jpg", "question": "What?"}],
  "vqav2": {"questions": [{"question_id": 262144005, "image_id": 262144}]},
}


def written(spec, rows, texts):
  outputs = [evals.Output(i, text) for i, text in enumerate(texts)]
  (pair,) = spec.files(rows, outputs).items()
  return pair[0], json.loads(pair[1])


def test_every_format_is_tried_here():
  assert WRITTEN.keys() == OFFICIAL.keys() == predictions.FORMATS.keys()


@pytest.mark.parametrize("name", predictions.FORMATS)
def test_the_file_is_what_the_server_wants_and_passes_its_check(name):
  id_, expected = WRITTEN[name]
  spec = evals.ServerFile("test/answers", None, format=name)
  (column,) = spec.columns()
  file, content = written(spec, [{column: id_}], ["cab"])
  assert file == "test/answers.json"
  assert content == expected
  form = predictions.FORMATS[name]
  wanted = check_submission.official(form, OFFICIAL[name])
  assert list(check_submission.problems_of(form, content, wanted)) == []


@pytest.mark.parametrize(
  ("name", "found", "expected"),
  [
    ("vqav2", np.int64(7), 7),
    ("vqav2", "7", 7),
    ("gqa", 7, "7"),
    ("gqa", np.int64(7), "7"),
    ("gqa", "07", "07"),
  ],
)
def test_ids_are_turned_into_the_type_that_the_server_wants(name, found, expected):
  form = predictions.FORMATS[name]
  id_ = predictions.as_id(form, found)
  assert id_ == expected and type(id_) is type(expected)


@pytest.mark.parametrize("value", ["7.5", "seven", 7.0, True, None, ""])
def test_an_id_of_another_type_is_an_error_that_names_row_and_column(value):
  with pytest.raises(errors.DataError, match=r"Row 0.*'question_id'.*not a whole number"):
    written(evals.ServerFile("t", None), [{"question_id": value}], ["a"])


def test_the_column_of_the_id_can_be_another_one():
  spec = evals.ServerFile("t", None, format="vizwiz", image_id="file")
  assert spec.columns() == ("file",)
  assert written(spec, [{"file": "a.jpg"}], ["x"])[1] == [{"image": "a.jpg", "answer": "x"}]
  assert evals.ServerFile("t", None, question_id="qid").columns() == ("qid",)


def test_an_answer_that_is_no_choice_becomes_the_nearest_one_and_is_counted():
  spec = evals.ServerFile("t", None, format="aokvqa_mc", choices="choices")
  rows = [{"question_id": k, "choices": ["cab", "delivery", "train"]} for k in "abc"]
  assert spec.columns() == ("question_id", "choices")
  _, content = written(spec, rows, ["a Train", "cab", ""])
  assert [entry["multiple_choice"] for entry in content.values()] == ["train", "cab", "cab"]
  outputs = [evals.Output(0, "a Train"), evals.Output(1, "cab"), evals.Output(2, "")]
  assert spec.score(rows, outputs) == {"num": 3.0, "empty": 0.0, "replaced": 2.0, "duplicates": 0.0}


def test_ids_that_come_twice_are_counted():
  rows = [{"question_id": 1}, {"question_id": 1}, {"question_id": 2}]
  outputs = [evals.Output(0, "a"), evals.Output(1, ""), evals.Output(2, "c")]
  assert evals.ServerFile("t", None).score(rows, outputs) == {
    "num": 3.0,
    "empty": 1.0,
    "replaced": 0.0,
    "duplicates": 1.0,
  }


def test_an_unknown_format_names_the_near_one():
  with pytest.raises(errors.ConfigError, match="vqav2"):
    evals.ServerFile("t", None, format="vqa_v2")


VQA = predictions.FORMATS["vqav2"]
WANTED = {1: (), 2: (), 3: ()}


def entries(*ids):
  return [{"question_id": id_, "answer": "a"} for id_ in ids]


@pytest.mark.parametrize(
  ("content", "words"),
  [
    ({"1": "a"}, ["holds an object; the server wants a list"]),
    (entries(1, 2), ["1 ids that are missing: 3"]),
    (entries(), ["3 ids that are missing: 1, 2, 3"]),
    (entries(1, 2, 3, 9), ["1 ids that the server does not know: 9"]),
    (entries(1, 2, 3, 3), ["1 ids that come more than once: 3"]),
    (entries(1, 2, "3"), ["question_id that are not of type int: 2 has '3'", "missing: 3"]),
    (entries(1, 2, 3.0), ["not of type int: 2 has 3.0"]),
    (entries(1, 2, True), ["not of type int: 2 has True"]),
    (entries(1, 2, None), ["not of type int: 2 has None"]),
    (entries(1, 2) + [{"question_id": 3}], ["exactly the keys ['answer', 'question_id']"]),
    (entries(1, 2) + [{"question_id": 3, "answer": "a", "gts": []}], ["exactly the keys"]),
    (entries(1, 2) + [{"id": 3, "answer": "a"}], ["exactly the keys", "missing: 3"]),
    (entries(1, 2) + [{"question_id": 3, "answer": 5}], ["answer that are no texts: 2 has 5"]),
    (entries(1, 2) + [{"question_id": 3, "answer": None}], ["no texts: 2 has None"]),
    (entries(1, 2) + [[3, "a"]], ["exactly the keys", "2 has a list", "missing: 3"]),
  ],
)
def test_every_kind_of_broken_file_is_told(content, words):
  predicted = list(check_submission.problems_of(VQA, content, WANTED))
  assert predicted
  for word in words:
    assert any(word in sentence for sentence in predicted), predicted


def test_only_the_first_few_are_shown_of_all_that_are_counted():
  (predicted,) = check_submission.problems_of(VQA, entries(), dict.fromkeys(range(100), ()))
  assert predicted == "100 ids that are missing: 0, 1, 2, …"


def test_answers_that_are_no_choices_are_told():
  form = predictions.FORMATS["aokvqa_mc"]
  wanted = {"q": ("cab", "bus"), "r": ("cab", "bus")}
  content = {"q": {"multiple_choice": "taxi"}, "r": {"multiple_choice": "bus"}}
  (predicted,) = check_submission.problems_of(form, content, wanted)
  assert "1 answers that are none of the question's choices: 'q' has 'taxi'" in predicted
  (predicted, *_) = check_submission.problems_of(form, [{"q": "cab"}], wanted)
  assert "wants an object" in predicted


@given(st.lists(st.integers(0, 5)))
def test_a_file_passes_only_when_each_id_is_there_once(ids):
  predicted = list(check_submission.problems_of(VQA, entries(*ids), WANTED))
  assert (predicted == []) == (sorted(ids) == [1, 2, 3])


_JSON = st.recursive(
  st.none() | st.booleans() | st.integers(0, 4) | st.text("ab", max_size=1),
  lambda inner: (
    st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(("question_id", "answer", "x")), inner, max_size=3)
  ),
)


@given(_JSON)
def test_no_content_makes_the_check_fail_itself(content):
  for form in predictions.FORMATS.values():
    assert list(check_submission.problems_of(form, content, {form.id_type(9): ()}))


@pytest.mark.parametrize("content", [None, 3, [], {}, {"questions": 3}, {"questions": [{}]}, [1]])
def test_a_file_of_questions_that_is_none_is_an_error(content):
  with pytest.raises(errors.DataError, match="official file"):
    check_submission.official(VQA, content)


def test_the_document_lists_every_format_and_its_keys():
  text = (run_train.ROOT / "docs" / "test_servers.md").read_text(encoding="utf-8")
  for name, form in predictions.FORMATS.items():
    (line,) = [x for x in text.splitlines() if x.startswith(f"| `{name}` |")]
    assert f'"{form.answer_key}": "…"' in line and f'"{form.id_key or "<question_id>"}": ' in line
