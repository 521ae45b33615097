"""Progress: plain in a log, one line on a terminal, and every second accounted for."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma_jax.trainer import progress


class _Clock:
  """Time that passes only when told to."""

  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


class _Terminal(io.StringIO):
  def isatty(self):
    return True


def _progress(stream, clock, **changes):
  start_step = changes.pop("start_step", 0)
  options = dict(batch_size=8, main=True, stream=stream, clock=clock)
  shown = progress.Progress(**{**options, **changes})
  shown.resume(start_step, 100, {})
  shown.begin_steps()
  return shown


def test_a_plain_log_gets_one_line_per_report():
  clock, stream = _Clock(), io.StringIO()
  shown = _progress(stream, clock)
  with shown.part("compile"):
    clock.now += 30
  for _ in range(10):
    with shown.part("data"):
      clock.now += 0.25
    clock.now += 0.75
  with shown.part("eval"):
    clock.now += 10
  rates = shown.log(10, {"loss": 1.23456, "lr": 1e-5})
  assert rates == {"examples_per_second": 8.0, "data_wait_share": 0.25}
  # 20 s for 10 steps, the evaluation included and the compilation not: 180 s for 90 more.
  assert stream.getvalue() == (
    "step 10/100 (10 %) | loss 1.235 | lr 1.00e-05 | 8 examples/s | 3 min 00 s left"
    " | waiting for data 25 %\n"
  )


def test_rates_are_those_since_the_last_report_and_a_resumed_run_starts_its_own():
  clock, stream = _Clock(), io.StringIO()
  shown = _progress(stream, clock, start_step=40)
  clock.now += 10
  assert shown.log(50, {})["examples_per_second"] == 8.0
  clock.now += 5
  assert shown.log(60, {})["examples_per_second"] == 16.0
  assert "30 s left" in stream.getvalue().splitlines()[-1]  # 15 s for 20 steps, 40 to go.


def test_a_terminal_gets_one_updating_line_and_notes_stand_alone():
  clock, stream = _Clock(), _Terminal()
  shown = _progress(stream, clock)
  clock.now += 1
  shown.log(1, {"loss": 2.0})
  shown.note("saved step 1")
  clock.now += 1
  shown.log(2, {"loss": 1.0})
  shown.close()
  seen = stream.getvalue()
  assert seen.count("\n") == 2 and "saved step 1\n" in seen and seen.endswith("\n")
  assert seen.count("\r\x1b[K") == 3  # Two reports and one note, each over the line before.


def test_a_long_line_is_cut_so_that_it_can_be_overwritten():
  stream = _Terminal()
  shown = _progress(stream, _Clock())
  shown.log(1, {f"metric_{i}": 1.0 for i in range(20)})
  assert len(stream.getvalue().removeprefix("\r\x1b[K")) < 80


def test_the_other_processes_say_nothing_and_measure_all_the_same():
  clock, stream = _Clock(), io.StringIO()
  shown = _progress(stream, clock, main=False)
  clock.now += 1
  assert shown.log(1, {})["examples_per_second"] == 8.0
  shown.note("x")
  shown.close()
  assert stream.getvalue() == ""


@given(
  st.recursive(
    st.just([]),
    lambda inner: st.lists(st.tuples(st.sampled_from(tuple(progress.PARTS)), inner), max_size=4),
    max_leaves=12,
  ),
  st.lists(st.integers(0, 50), min_size=40, max_size=40),
)
def test_the_parts_of_a_run_sum_to_its_time(tree, secs):
  clock, ticks = _Clock(), iter(secs)
  shown = _progress(io.StringIO(), clock)
  own = dict.fromkeys(progress.PARTS, 0)

  def walk(name, parts):
    for part, inner in parts:
      tick = next(ticks, 0)
      clock.now += tick
      own[name] += tick
      with shown.part(part):
        walk(part, inner)
        tick = next(ticks, 0)
        clock.now += tick
        own[part] += tick

  walk("step", tree)
  assert shown.totals() == own and sum(own.values()) == clock.now - 100


def test_a_part_that_fails_is_still_closed():
  clock = _Clock()
  shown = _progress(io.StringIO(), clock)
  with pytest.raises(ValueError, match="x"):
    with shown.part("save"):
      clock.now += 2
      raise ValueError("x")
  clock.now += 1
  assert shown.totals() == {"start": 0, "step": 1, "compile": 0, "data": 0, "eval": 0, "save": 2}


def _times(**secs):
  return {name: float(secs.get(name.removeprefix("seconds/"), 0)) for name in progress.TIMES}


def test_the_time_before_the_steps_is_the_start_and_counts_for_no_rate():
  clock, stream = _Clock(), io.StringIO()
  shown = progress.Progress(batch_size=8, main=True, stream=stream, clock=clock)
  clock.now += 50
  shown.resume(0, 10, {})
  with shown.part("save"):
    clock.now += 5
  shown.begin_steps()
  clock.now += 2
  assert shown.log(2, {})["examples_per_second"] == 8.0
  assert "28 s left" in stream.getvalue()  # Saves count: 7 s for 2 steps.
  assert shown.times() == _times(start=50, save=5, step=2)


def test_steps_after_the_saved_one_are_lost_and_what_was_before_it_is_kept():
  lines = [
    {"step": 10, **_times(start=5, compile=10, step=20, data=2)},
    {"step": 15, **_times(start=5, compile=10, step=30, data=3)},
    {"step": 20, **_times(start=5, compile=12, step=40, data=4, eval=7)},
  ]
  saved = _times(start=5, compile=10, step=21, data=2, save=1)  # A moment after line 10.
  before = progress.spent_before(lines, 10, saved)
  assert before == _times(start=5, compile=12, step=21, data=2, save=1, lost=19 + 2 + 7)
  clock = _Clock()
  shown = progress.Progress(batch_size=8, main=True, stream=io.StringIO(), clock=clock)
  shown.resume(10, 100, before)
  clock.now += 3
  assert shown.times() == {**before, "seconds/start": 8.0}
  # Nothing was saved, and a run of an older version without times.
  assert progress.spent_before(lines, 0, {}) == _times(start=5, compile=12, lost=40 + 4 + 7)
  assert progress.spent_before([{"step": 1}], 1, {}) == _times()


def test_what_was_lost_once_stays_lost_when_a_run_goes_back_again():
  lines = [{"step": 4, **_times(step=4)}, {"step": 9, **_times(step=9, lost=3)}]
  assert progress.spent_before(lines, 4, _times(step=4)) == _times(step=4, lost=8)


def test_the_summary_names_the_parts_with_time_and_share():
  text = progress.summary(_times(start=10, step=70, lost=20))
  assert text == "time:    start 10 s (10 %), steps 1 min 10 s (70 %), lost 20 s (20 %)"


@pytest.mark.parametrize(
  ("secs", "text"),
  [
    (0, "0 s"),
    (59.4, "59 s"),
    (59.6, "1 min 00 s"),
    (3599, "59 min 59 s"),
    (3600, "1 h 00 min"),
    (90000, "1 d 1 h"),
    (-5, "0 s"),
  ],
)
def test_durations_read_as_people_say_them(secs, text):
  assert progress.duration(secs) == text
