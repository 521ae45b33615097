"""Two real hosts: an error, a death and a stop on one end both, and no bit is lost.

The short form for every change; `python -m tests.faults.several_hosts` has all stories, and
`python -m tests.faults.host_kills` more deaths.
"""

import json
import signal

import pytest

from paligemma_jax.core import bucket
from tests import run_train
from tests.faults import host_kills
from tests.faults import several
from tests.faults import several_hosts


@pytest.mark.slow  # Two processes of the command each, 30 s on two cores.
@pytest.mark.parametrize("name", ["bad_row", pytest.param("kill0", marks=pytest.mark.long), "int1"])
def test_two_hosts_end_as_promised(name, tmp_path):
  ended, _, wrong = several_hosts.STORIES[name](several_hosts.Story(tmp_path))
  assert not wrong, [e.text[-2000:] for e in ended]


@pytest.mark.long  # Four times two processes, 100 s on two cores.
def test_killed_twice_two_hosts_end_with_the_same_bits(tmp_path):
  assert host_kills.kills(tmp_path, num=2, seed=3) == ""


@pytest.mark.long  # Three times two processes, two minutes on two cores.
def test_hosts_that_share_nothing_but_a_bucket_go_on_after_one_was_killed(gcs, tmp_path):
  """Each host has file systems of its own for the configuration and for all temporary files."""
  story = several_hosts.Story(tmp_path / "story")
  root = bucket.path(f"gs://test-bucket/{tmp_path.name}")
  for file in story.data.iterdir():
    bucket.write(root / "data" / file.name, file.read_bytes())
  own = tmp_path / "own"  # Mounted for each host; the test itself sees an empty folder.
  own.mkdir()
  config = f"{own}/small.py:data={root}/data,total=12 steps,save=4 steps"

  def prefix_of(i):
    script = f'mount -t tmpfs none {own} && printf %s "$CONFIG" > {own}/small.py && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", script, "sh")

  def start(name, *flags, **options):
    return story.start(
      *flags,
      **options,
      config_of=lambda i: config,
      workdir_of=lambda i: root / name,
      prefix_of=prefix_of,
      env_of=lambda i: {"CONFIG": several.SMALL, "TMPDIR": str(own), "XDG_CACHE_HOME": str(own)},
    )

  with start("whole") as run:
    ended, _ = run.end(300.0)
  assert [e.code for e in ended] == [0, 0], [e.text[-2000:] for e in ended]
  with start("killed") as run:
    run.wait_for_step(6, root / "killed")
    run.signal(1, signal.SIGKILL)
    ended, _ = run.end(120.0)
  assert ended[0].code == 69, ended[0].text[-2000:]
  with start("killed") as run:
    ended, _ = run.end(300.0)
  assert [e.code for e in ended] == [0, 0], [e.text[-2000:] for e in ended]
  assert host_kills.unlike(root / "killed", root / "whole") == ""
  # The same rows, of which one host now takes all; its devices add up in another order.
  with start("killed", "--resume_step", "8", count=1, devices=2) as run:
    (ended,), _ = run.end(300.0)
  assert ended.code == 0 and "going on from step 8" in ended.text, ended.text[-2000:]
  lines = (run_train.metric_lines(root / name) for name in ("killed", "whole"))
  for line, expected in zip(*lines, strict=True):
    assert json.loads(line) == pytest.approx(json.loads(expected), rel=1e-5)
  assert list(own.iterdir()) == []
