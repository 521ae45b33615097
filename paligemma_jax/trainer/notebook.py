"""The live view of a run in a notebook: a progress bar, the loss, notes, and predictions as images.

IPython is used if it runs this process (see `progress.view`), and not imported otherwise. The
cell's output is updated in place, as Jupyter, Colab, Kaggle and VS Code can without widgets.
"""

from __future__ import annotations

import html
import math
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from paligemma_jax.report import report

_LEAST_SECS = 0.3  # Between two updates; each is a message to the browser.
_MAX_NOTES = 200
_MAX_POINTS = 400  # Of the curve.
_WIDTH, _HEIGHT = 360, 60  # Of the curve, in CSS pixels.
_HIGH = 640  # Of the frame with images, in CSS pixels.
_COLOR = "#c2410c"


def frame(page: str) -> str:
  """A whole HTML page as a part of another one; their styles do not mix."""
  return (
    f'<iframe srcdoc="{html.escape(page, quote=True)}" sandbox=""'
    f' style="width:100%;height:{_HIGH}px;border:0;resize:vertical;overflow:auto"></iframe>'
  )


class View:
  """What a cell shows of a run.

  Args:
    display: the module IPython.display.
    clock: seconds, monotonic.
  """

  def __init__(self, display: Any, clock: Callable[[], float] = time.monotonic):
    self._display, self._clock = display, clock
    self._shown: dict[str, str] = {}  # The ids of the two parts of the output.
    self._last = -math.inf
    self._step, self._total = 0, 0
    self._line, self._doing = "", "starting"
    self._losses: list[tuple[int, float]] = []
    self._notes: list[str] = []

  def reached(self, step: int, total: int) -> None:
    """The step that is under way."""
    self._step, self._total = step, total
    self._update()

  def line(self, step: int, total: int, text: str, loss: float | None) -> None:
    """The numbers of a step."""
    self._step, self._total, self._line = step, total, text
    if loss is not None and math.isfinite(loss):
      self._losses.append((step, loss))
      if len(self._losses) > _MAX_POINTS:
        del self._losses[1::2]
    self._update(now=step == total)

  def doing(self, text: str) -> None:
    """What takes long at present; '' for the steps themselves."""
    self._doing = text
    self._update(now=bool(text))

  def note(self, text: str) -> None:
    """A line, or several, below the bar."""
    self._notes.append(text)
    del self._notes[:-_MAX_NOTES]
    self._update(now=True)

  def images(self, page: str, lines: Sequence[str]) -> None:
    """Predictions as a page of images, in place of the last ones; `lines` is the same as text."""
    self._show("images", frame(page), "\n".join(lines))

  def close(self) -> None:
    """Shows how far the run came, if it showed anything."""
    self._doing = ""
    if self._shown:
      self._update(now=True)

  def _update(self, *, now: bool = False) -> None:
    if now or self._clock() - self._last >= _LEAST_SECS:
      self._last = self._clock()
      self._show("bar", self._html(), "\n".join([*self._notes, self._line or self._doing]))

  def _show(self, part: str, page: str, text: str) -> None:
    content = {"text/html": page, "text/plain": text}
    if part in self._shown:
      self._display.update_display(content, raw=True, display_id=self._shown[part])
    else:
      self._shown[part] = uuid.uuid4().hex
      self._display.display(content, raw=True, display_id=self._shown[part])

  def _html(self) -> str:
    share = 100 * self._step / self._total if self._total else 0
    line = self._line or (f"step {self._step}/{self._total}" if self._total else "")
    said = " | ".join(filter(None, (line, self._doing and f"{self._doing} …")))
    notes = report.escape("\n".join(self._notes))
    return (
      '<div style="font:13px/1.5 system-ui,sans-serif;max-width:900px">'
      f'<div role="progressbar" aria-valuenow="{share:.0f}" aria-valuemin="0" aria-valuemax="100"'
      ' style="background:#8884;border-radius:5px;overflow:hidden">'
      f'<div style="width:{share:.1f}%;height:10px;background:{_COLOR}"></div></div>'
      f"<div>{report.escape(said)}</div>{self._curve()}"
      f'<pre style="margin:4px 0;font-size:12px;white-space:pre-wrap">{notes}</pre></div>'
    )

  def _curve(self) -> str:
    """The loss; '' before there are two values."""
    if len(self._losses) < 2:
      return ""
    low, high = (f(v for _, v in self._losses) for f in (min, max))
    last, span = max(self._total, 1), (high - low) or 1.0
    points = " ".join(
      f"{_WIDTH * step / last:.1f},{4 + (_HEIGHT - 8) * (high - value) / span:.1f}"
      for step, value in self._losses
    )
    return (
      f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="loss">'
      f'<polyline points="{points}" fill="none" stroke="{_COLOR}" stroke-width="1.8"/></svg>'
      f"<div>loss, from {self._losses[0][1]:.4g} to {self._losses[-1][1]:.4g}</div>"
    )
