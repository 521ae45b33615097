"""The table at the end of a run: baseline, before, after."""

from paligemma_jax.report import report
from paligemma_jax.trainer import outputs

LINES = [
  {"step": 0, "val/a/acc": 0.1, "val/a/num": 8, "val/a/baseline/acc": 0.25},
  {"step": 5, "loss": 2.0, "val/a/acc": 0.5, "val/a/num": 8},
  {"step": 9, "loss": 1.0, "val/a/acc": 0.75, "val/a/num": 8, "val/b/loss": 0.5},
]


def test_the_table_has_baseline_first_and_last_value_and_no_counts():
  table = outputs.scores(LINES, ["val/a", "val/b"])
  assert table.columns == ("metric", "baseline", "before", "after")
  assert table.rows == (("val/a/acc", 0.25, 0.1, 0.75), ("val/b/loss", None, None, 0.5))
  assert "0.750" in report.text(table)


def test_columns_without_any_value_are_left_out():
  table = outputs.scores(LINES[2:], ["val/b"])
  assert table.columns == ("metric", "after")
  assert outputs.scores(LINES[:1], ["val/b"]) is None


def test_the_time_table_is_of_the_last_line_and_absent_in_old_runs():
  assert outputs.times(LINES) is None and outputs.times([]) is None
  table = outputs.times([*LINES, {"step": 10, "seconds/step": 75.0, "seconds/save": 25.0}])
  assert ("steps", 75.0, "75.0 %") in table.rows and ("lost", 0.0, "0.0 %") in table.rows
