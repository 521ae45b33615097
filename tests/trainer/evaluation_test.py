"""The evaluation runner: each row once, on any mesh, with the right numbers and the right names."""

import dataclasses
import json
import math
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from paligemma_jax import evals
from paligemma_jax import sources
from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.evals import base
from paligemma_jax.multihost import channel
from paligemma_jax.regions import answer_forms
from paligemma_jax.trainer import evaluation
from paligemma_jax.trainer import setup
from paligemma_jax.trainer import workdir
from tests import virtual_devices
from tests.trainer import evaluation_run

_PAINT = (evaluation_run.Paint(),)


@spec.spec
class Failing(base.Evaluator):
  """A user's evaluator with a mistake in it."""

  kind: str = "bug"
  encoding = "train"

  def columns(self):
    return ("suffix",)

  def score(self, rows, outputs):
    if self.kind == "bug":
      return rows[0]["nothing"]
    return {"acc": "high"} if self.kind == "text" else {"num": 1.0}

  def files(self, rows, outputs):
    return {"../escaped.txt": ""}


@dataclasses.dataclass
class Run:
  """A runner, the model's parameters and what the runner was made of."""

  made: setup.Setup
  params: dict
  workdir: workdir.Workdir
  runner: evaluation.Runner
  bad: list


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Five rows in batches of 4, so the last is filled up; to the model all tokens are alike."""
  rows, bad = evaluation_run.source(5), []
  broken = (dict(grey=1, prefix="a", suffix="b"), dict(grey=-1, prefix="a", suffix="b"))
  long = tuple(dict(grey=1, prefix=text, suffix="b") for text in ("a", "what is 3?", "b"))
  made = evaluation_run.setup(
    evals.Perplexity("val/loss", rows, _PAINT, batch_size=4),
    evals.Perplexity("val/few", rows, _PAINT, batch_size=4, start_limit=3),
    evals.WritePredictions("val/pred", rows, _PAINT, batch_size=4, max_len=3, keep=("id",)),
    evals.ExactMatch(
      "val/banned", rows, _PAINT, batch_size=4, max_len=3, banned=("<eos>", "<pad>")
    ),
    evals.ExactMatch(
      "val/choice",
      rows,
      _PAINT,
      batch_size=4,
      beam_size=2,
      constraint=answer_forms.OneOf(("two fish", "cat")),
    ),
    evals.Perplexity("broken", sources.InMemory(broken), _PAINT, batch_size=4),
    *(
      evals.ExactMatch(
        f"long/{overflow}",
        sources.InMemory(long),
        _PAINT,
        batch_size=4,
        max_len=2,
        overflow=overflow,
        text_len=6,
      )
      for overflow in ("error", "truncate", "cut", "drop")
    ),
    *(Failing(kind, rows, _PAINT, batch_size=4, kind=kind) for kind in ("bug", "text", "escape")),
  )
  place = workdir.Workdir(tmp_path_factory.mktemp("run"))
  runner = evaluation.Runner(made, place.predictions, on_bad_row=lambda *row: bad.append(row))
  return Run(made, evaluation_run.zero_params(made), place, runner, bad)


def test_loss_and_counts_are_those_worked_out_by_hand(run):
  result = run.runner.run(run.params, 1, names=["val/loss"])["val/loss"]
  log_v = math.log(run.made.model_config.llm.vocab_size)
  suffixes = [row["suffix"] for row in evaluation_run.source(5).rows]
  counts = [len(run.made.tokenizer.encode(suffix)) + 1 for suffix in suffixes]  # And the eos.
  assert [output.num_tokens for output in result.outputs] == counts
  assert [output.row for output in result.outputs] == [0, 1, 2, 3, 4]
  assert result.metrics["num_tokens"] == sum(counts) and result.metrics["num"] == 5
  # float32 sums over the vocabulary.
  assert result.metrics["loss"] == pytest.approx(log_v, rel=1e-5)
  assert result.metrics["nll_per_token"] == pytest.approx(log_v, rel=1e-5)


def test_decoded_rows_come_with_their_columns_and_go_into_a_file_of_the_step(run):
  result = run.runner.run(run.params, 40, names=["val/pred"])["val/pred"]
  path = run.workdir.predictions / "val" / "pred-40.jsonl"
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert [line["id"] for line in lines] == ["r0", "r1", "r2", "r3", "r4"]
  assert lines[2]["prompt"] == "what is 2?"
  assert os.listdir(path.parent) == ["pred-40.jsonl"]
  # Three tokens of V equally probable ones each.
  expected = -3 * math.log(run.made.model_config.llm.vocab_size)
  assert all(line["logprob"] == pytest.approx(expected, rel=1e-5) for line in lines)
  for output in result.outputs:
    assert len(output.token_logprobs) == len(output.tokens)
    assert sum(output.token_logprobs) == pytest.approx(output.logprob, rel=1e-5)
    assert len(output.token_ends) == len(output.tokens)
    assert max(output.token_ends, default=0) == len(output.text)


def test_a_start_limit_counts_before_the_first_step_alone(run):
  def rows(**options):
    return len(run.runner.run(run.params, 0, names=["val/few"], **options)["val/few"].rows)

  assert (rows(), rows(at_start=True)) == (5, 3)


def test_a_banned_token_is_never_decoded(run):
  free = run.runner.run(run.params, 1, names=["val/pred"])["val/pred"]
  without = run.runner.run(run.params, 1, names=["val/banned"])["val/banned"]
  # All tokens are equally probable, so the first is taken: the padding; then the next is EOS.
  assert {output.tokens for output in free.outputs} == {(0, 0, 0)}
  assert {output.tokens for output in without.outputs} == {(2, 2, 2)}


def test_evaluators_take_the_sampling_options_of_generate():
  """Of a model whose tokens differ: greedy, the same by top_k=1, cut, drawn, penalized."""
  rows = evaluation_run.source(5)
  free = dict(batch_size=4, max_len=8, banned=("<eos>",))
  asked = {
    "greedy": {},
    "first": dict(top_k=1, temperature=2.0),
    "drawn": dict(temperature=5.0),
    "draw": dict(sampler="temperature(5)"),
    "fair": dict(repetition_penalty=50.0),
  }
  made = evaluation_run.setup(
    *(evals.WritePredictions(n, rows, _PAINT, **free, **how) for n, how in asked.items())
  )
  params = evaluation_run.random_params(made)
  found = {n: r.outputs for n, r in evaluation.Runner(made, None).run(params, 1).items()}
  tokens = {n: [o.tokens for o in outputs] for n, outputs in found.items()}
  assert tokens["first"] == tokens["greedy"] != tokens["drawn"] == tokens["draw"]
  assert all(len(set(row)) == 8 for row in tokens["fair"]) and tokens["fair"] != tokens["greedy"]

  whole = max(found["drawn"], key=lambda o: len(o.text))
  stop = whole.text[whole.token_ends[3] - 1 : whole.token_ends[3] + 1]  # Over a border of tokens.
  made = evaluation_run.setup(
    evals.WritePredictions("cut", rows, _PAINT, **free, temperature=5.0, stop=stop)
  )
  outputs = evaluation.Runner(made, None).run(params, 1)["cut"].outputs
  cut = next(o for o in outputs if o.row == whole.row)
  num = len(cut.tokens)
  assert cut.text == whole.text[: whole.text.find(stop)]
  assert cut.tokens == whole.tokens[:num] and num == len(cut.token_logprobs) == len(cut.token_ends)
  ends = (0, *whole.token_ends)
  assert ends[num] >= len(cut.text) + len(stop) > max(ends[:num]) and len(stop) == 2
  assert max(cut.token_ends) == len(cut.text)
  assert cut.logprob == pytest.approx(sum(whole.token_logprobs[:num]), rel=1e-5)


def test_wrong_sampling_options_name_the_evaluator_and_the_key():
  bad = evals.ExactMatch("val/bad", evaluation_run.source(1), _PAINT, top_p=2.0)
  with pytest.raises(errors.ConfigError, match=r"evaluator 'val/bad': top_p=2\.0 must be"):
    evaluation.Runner(evaluation_run.setup(bad), None)


def test_an_answer_is_searched_for_among_those_that_are_allowed(run):
  outputs = run.runner.run(run.params, 1, names=["val/choice"])["val/choice"].outputs
  assert len(outputs) == 5 and {output.text for output in outputs} <= {"cat", "two fish"}
  # All tokens are equally probable, so the shorter answer is the more probable one.
  assert {output.text for output in outputs} == {"cat"}


def test_a_banned_text_that_is_not_one_token_is_refused_before_anything_runs():
  wrong = evals.ExactMatch("e", evaluation_run.source(1), _PAINT, banned=("<noise>",))
  with pytest.raises(errors.ConfigError, match="evaluator 'e': banned: '<noise>' is not one token"):
    evaluation.Runner(evaluation_run.setup(wrong), None)


def test_the_second_run_of_the_same_shapes_compiles_nothing(run):
  compiled = []

  def listener(event, secs, **kwargs):
    if event.endswith("backend_compile_duration"):
      compiled.append(event)

  names = ("val/loss", "val/pred")
  jax.monitoring.register_event_duration_secs_listener(listener)
  fresh = evaluation.Runner(run.made, None)
  first = fresh.run(run.params, 1, names=names)
  assert compiled
  compiled.clear()
  assert evaluation.merged(fresh.run(run.params, 2, names=names)) == evaluation.merged(first)
  assert not compiled
  assert set(evaluation.merged(first)) >= {"val/loss/loss", "val/loss/num", "val/pred/num"}


def test_what_a_row_scores_does_not_depend_on_its_batch():
  rows = evaluation_run.source(5)
  made = evaluation_run.setup(
    *(evals.Perplexity(f"of {n}", rows, _PAINT, batch_size=n) for n in (2, 16))
  )
  results = evaluation.Runner(made, None).run(evaluation_run.random_params(made), 1)
  two, sixteen = ([o.loss_sum for o in results[n].outputs] for n in ("of 2", "of 16"))
  # The order of float32 sums differs between batch shapes.
  np.testing.assert_allclose(two, sixteen, rtol=1e-5, atol=1e-5)
  assert max(two) > min(two) + 1  # The rows do differ.


@pytest.mark.parametrize(
  ("name", "error", "words"),
  [
    ("bug", RuntimeError, "evaluator 'bug' at step 7 failed: KeyError: 'nothing'"),
    ("text", errors.ConfigError, "evaluator 'text' at step 7: `score` must return"),
    ("escape", errors.ConfigError, "evaluator 'escape' at step 7: The file name"),
  ],
)
def test_an_evaluator_that_fails_is_named_with_its_step(run, name, error, words):
  with pytest.raises(error, match=words) as raised:
    run.runner.run(run.params, 7, names=[name])
  assert raised.value.__cause__ is not None
  assert not list(run.workdir.path.rglob("escaped*"))


def test_a_row_beyond_the_budget_ends_the_evaluation_and_within_it_is_counted(run):
  with pytest.raises(errors.DataError, match="evaluator 'broken' at step 1: 1 bad rows"):
    run.runner.run(run.params, 1, names=["broken"])
  run.made.config.train.bad_rows = 1
  metrics = run.runner.run(run.params, 1, names=["broken"])["broken"].metrics
  run.made.config.train.bad_rows = 0
  assert (metrics["num"], metrics["num_rejected"]) == (1, 1)
  assert [(name, row) for name, row, _, _ in run.bad] == [("broken", 1)] * 2


def test_a_prompt_that_is_too_long_does_as_the_evaluator_says(run):
  # The second of three prompts has 7 tokens with BOS and separator; 6 fit.
  with pytest.raises(errors.DataError, match="raise text_len by 1, or set overflow to 'truncate'"):
    run.runner.run(run.params, 1, names=["long/error"])
  for overflow in ("truncate", "cut"):
    metrics = run.runner.run(run.params, 1, names=[f"long/{overflow}"])[f"long/{overflow}"].metrics
    assert (metrics["num"], metrics["num_truncated"]) == (3, 1) and "num_rejected" not in metrics
  metrics = run.runner.run(run.params, 1, names=["long/drop"])["long/drop"].metrics
  assert (metrics["num"], metrics["num_rejected"]) == (2, 1) and "num_truncated" not in metrics


def test_the_first_predictions_are_a_table_whose_cells_are_one_line_of_plain_text():
  rows = [
    {"_row": i, "prefix": "detect | x", "boxes": [[0.0, 1.0]], "suffix": "a\nb"} for i in range(9)
  ]
  outputs = [evals.Output(i, text=f"<loc0001> {'x' * 300}") for i in range(9)]
  result = evaluation.Result({}, rows, outputs)
  lines = evaluation.table(("prefix", "boxes", "suffix"), result).splitlines()
  assert lines[:2] == ["| prefix | boxes | suffix | prediction |", "| --- | --- | --- | --- |"]
  assert len(lines) == 2 + 8 and len(set(lines[2:])) == 1
  long = "&lt;loc0001&gt; " + "x" * 189 + "…"
  assert lines[2] == f"| detect &#124; x | [[0.0, 1.0]] | a b | {long} |"


def test_an_unknown_evaluator_is_refused_with_the_near_one(run):
  with pytest.raises(errors.ConfigError, match="Did you mean 'val/loss'"):
    run.runner.run(run.params, 1, names=["val/los"])


def test_two_evaluators_of_one_name_are_refused():
  same = evals.Perplexity("loss", evaluation_run.source(1), _PAINT)
  with pytest.raises(errors.ConfigError, match="two evaluators are called 'loss'"):
    evaluation.Runner(evaluation_run.setup(same, same), None)


@pytest.mark.slow  # 30 s: a program for each mesh.
def test_the_metrics_are_the_same_on_one_device_on_eight_and_on_two_processes():
  ((alone, orders, tokens),) = _run_all(devices=1)
  for n, order in zip(evaluation_run.NUM_ROWS, orders, strict=True):
    assert alone[f"loss {n}/num"] == alone[f"pred {n}/num"] == n
    assert order == [f"r{i}" for i in range(n)]
  eight = _run_all(devices=8)
  two = _run_all(channel.free_port(), 2, devices=1, processes=2)
  assert len(eight + two) == 3
  for metrics, its_orders, its_tokens in eight + two:
    assert its_orders == orders and its_tokens == tokens
    assert metrics == pytest.approx(alone, rel=1e-5)  # Sums of float32 in another order.


def _run_all(*arguments, devices, processes=1):
  environment = virtual_devices.environment(devices)
  runs = []
  for index in range(processes):
    command = [sys.executable, "-m", "tests.trainer.evaluation_run", *map(str, arguments)]
    command += [str(index)] if processes > 1 else []
    runs.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
  results = []
  for run in runs:
    output, _ = run.communicate(timeout=200)
    assert run.returncode == 0
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    results.append(json.loads(line.removeprefix("RESULT ")))
  return results
