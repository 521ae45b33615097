"""The view of a run in a notebook: one output that is updated, and nothing where there is none."""

import html
import io
import subprocess
import sys
import types

import pytest

from paligemma_jax.trainer import notebook
from paligemma_jax.trainer import progress


class _Display:
  """IPython.display, as far as a view uses it; `parts` is what the cell shows now."""

  def __init__(self):
    self.parts, self.num_updates = {}, 0

  def display(self, content, raw, display_id):
    assert raw and display_id not in self.parts
    self.parts[display_id] = content

  def update_display(self, content, raw, display_id):
    assert raw and display_id in self.parts
    self.parts[display_id] = content
    self.num_updates += 1

  def shown(self):
    return [(part["text/html"], part["text/plain"]) for part in self.parts.values()]


class _Clock:
  now = 0.0

  def __call__(self):
    return self.now


def _view():
  display, clock = _Display(), _Clock()
  return notebook.View(display, clock), display, clock


def _progress(view, total=10, **options):
  options = {"batch_size": 8, "main": True, "clock": _Clock(), **options}
  shown = progress.Progress(view=view, **options)
  shown.resume(0, total, {})
  shown.begin_steps()
  return shown


def test_a_bar_is_updated_in_place_and_nothing_is_written():
  view, display, clock = _view()
  stream = io.StringIO()
  shown = _progress(view, stream=stream)
  shown.note("initial weights: <b>random</b>")
  for step in range(1, 11):
    clock.now += 1
    view.reached(step, 10)
    shown.log(step, {"loss": 3.0 / step, "lr": 1e-3})
  shown.close()
  ((page, text),) = display.shown()
  assert 'aria-valuenow="100"' in page and "step 10/10 (100 %)" in page
  assert "&lt;b&gt;random" in page and "<b>" not in page
  assert page.count("<polyline") == 1 and "loss, from 3 to 0.3" in page
  assert text.splitlines()[0] == "initial weights: <b>random</b>" and "loss 0.3" in text
  assert stream.getvalue() == ""


def test_the_bar_moves_between_reports_and_says_what_takes_long():
  view, display, clock = _view()
  shown = _progress(view)
  with shown.part("compile"):
    assert "compiling the step …" in display.shown()[0][0]
  clock.now += 1
  view.reached(4, 10)
  assert 'aria-valuenow="40"' in display.shown()[0][0] and "…" not in display.shown()[0][0]
  with shown.part("data"):
    assert "reading data" not in display.shown()[0][0]


def test_a_run_of_many_fast_steps_sends_few_updates_and_a_curve_of_few_points():
  view, display, clock = _view()
  for step in range(1, 10_001):
    clock.now += 0.001
    view.line(step, 10_000, f"step {step}", 1.0 / step)
  assert 20 <= display.num_updates <= 40
  page = display.shown()[0][0]
  points = page.partition('points="')[2].partition('"')[0].split()
  assert 100 < len(points) <= 400 and "step 10000" in page


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_not_drawn(loss):
  view, display, _ = _view()
  view.line(1, 2, "step 1", loss)
  view.line(2, 2, "step 2", 1.0)
  assert "polyline" not in display.shown()[0][0]


def test_a_run_that_does_not_begin_shows_nothing():
  view, display, _ = _view()
  _progress(view).close()
  assert not display.shown()


def test_images_are_in_a_frame_of_their_own_and_replaced():
  view, display, _ = _view()
  view.images('<p class="a">one</p>', ["one"])
  view.images('<p class="a">two & more</p>', ["two"])
  ((page, text),) = display.shown()
  assert text == "two"
  assert html.unescape(page.partition('srcdoc="')[2].partition('"')[0]) == (
    '<p class="a">two & more</p>'
  )
  assert 'sandbox=""' in page  # No script of a page can run.


@pytest.mark.parametrize("kernel", [None, object()])
def test_a_view_is_found_in_a_notebook_and_not_in_a_terminal(kernel, monkeypatch):
  ipython = types.ModuleType("IPython")
  ipython.display = _Display()
  ipython.get_ipython = lambda: types.SimpleNamespace(kernel=kernel)
  monkeypatch.setitem(sys.modules, "IPython", ipython)
  assert (progress.view() is not None) == (kernel is not None)


def test_nothing_is_imported_where_there_is_no_notebook():
  code = (
    "import sys; from paligemma_jax.trainer import progress; assert progress.view() is None;"
    "print(*[m for m in sys.modules if m.lower().startswith(('ipython', 'ipykernel'))])"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == ""
