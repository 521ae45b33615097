"""Hosts meet, end and stop as one, whatever happens to one of them. Real processes, without JAX."""

import os
import subprocess
import sys
import time

import pytest

from paligemma_jax.multihost import channel

_SECS = 60.0


def run(story, count=3, **env):
  """[(exit code, output)] of `count` hosts, and the seconds that it took."""
  port = channel.free_port()
  begin = time.monotonic()
  processes = [
    subprocess.Popen(
      [sys.executable, "-m", "tests.multihost.hosts_run", str(port), str(count), str(i), story],
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      env={**os.environ, **env},
    )
    for i in range(count)
  ]
  ended = []
  try:
    while time.monotonic() - begin < _SECS and any(p.poll() is None for p in processes):
      stopped = "frozen" in story and all(p.poll() is not None for p in processes[::2])
      if stopped:
        break
      time.sleep(0.05)
  finally:
    for process in processes:
      process.kill()
      out = process.communicate()[0]
      ended.append((process.returncode, out))
  return ended, time.monotonic() - begin


def test_values_arrive_in_the_order_of_the_hosts():
  ended, _ = run("values")
  assert ended == [(0, "[0, 1, 4] [0, 2, 4] ['n0', 'n1', 'n2']\n")] * 3


def test_who_does_not_come_is_named():
  ended, secs = run("missing", count=2)
  assert [code for code, _ in ended] == [69, 69] and secs < 30
  assert "After 6 s 1 of 3 hosts are missing: host 2" in ended[0][1]
  for _, out in ended:
    assert "hosts are missing" in out or "host 0 cannot be reached" in out
    assert "Traceback" not in out


def test_hosts_that_count_differently_do_not_start():
  ended, _ = run("other_count", count=2)
  assert ended[1][0] == 78
  assert "started as one of 3 hosts, host 0 as one of 2" in ended[1][1]
  assert ended[0][0] == 69


def test_two_hosts_of_one_number_do_not_start():
  ended, _ = run("same_number")
  assert sorted(code for code, _ in ended[1:]) == [69, 78]
  assert any("Host 1 is there already" in out for _, out in ended)


def test_an_error_ends_all_with_its_code_and_sentence():
  ended, secs = run("bad_row")
  assert [code for code, _ in ended] == [65] * 3 and secs < 20
  assert "rejected {'row': 5}" in ended[0][1]
  for _, out in ended[:2]:
    assert "error: host 2 (machine2) ended: row 5 is bad" in out and "Traceback" not in out
  assert "error: row 5 is bad" in ended[2][1]


def test_a_mistake_shows_its_traceback_where_it_happened_only():
  ended, _ = run("mistake")
  assert [code for code, _ in ended] == [1] * 3
  assert "Traceback" in ended[1][1]
  for i in (0, 2):
    assert "error: host 1 (machine1) ended: ValueError: a mistake" in ended[i][1]
    assert "Traceback" not in ended[i][1]


@pytest.mark.parametrize("who", [0, 1])
def test_the_death_of_a_host_ends_the_others(who):
  ended, secs = run(f"killed{who}")
  assert ended.pop(who)[0] == -9 and secs < 20
  for code, out in ended:
    assert code == 69
    assert f"error: host {who} (machine{who}) is gone: its connection broke" in out


def test_a_host_that_gives_no_sign_of_life_is_given_up():
  ended, secs = run("frozen")
  assert [ended[i][0] for i in (0, 2)] == [69, 69] and secs < 30
  for i in (0, 2):
    assert "host 1 (machine1) is gone: nothing was heard of it for" in ended[i][1]


def test_who_lets_the_others_wait_is_named_with_what_it_does():
  ended, secs = run("stuck")
  assert [code for code, _ in ended] == [69] * 3 and secs < 30
  for _, out in ended:
    assert "No host made progress" in out and "host 1 (machine1) was last reading data" in out


def test_all_stop_after_the_same_step():
  ended, _ = run("stopped")
  assert [code for code, _ in ended] == [75] * 3
  steps = {line for _, out in ended for line in out.splitlines() if line.startswith("stopped")}
  assert len(steps) == 1, ended


def test_hosts_that_have_the_same_agree():
  ended, _ = run("agree")
  assert ended == [(0, "agreed\n")] * 3


def test_hosts_that_differ_end_with_one_sentence_that_has_both_values():
  ended, secs = run("differ")
  assert [code for code, _ in ended] == [78] * 3 and secs < 30
  for _, out in ended:
    assert "The hosts differ in their configuration: optim.lr is 0.001 on host 0 (machine0)" in out
    assert "0.002 on host 2 (machine2)" in out and "seed" not in out and "Traceback" not in out


def test_a_folder_that_all_hosts_see_passes_and_is_left_clean(tmp_path):
  ended, _ = run("one_folder", FOLDER=str(tmp_path))
  assert ended == [(0, "one folder\n")] * 3
  assert not list(tmp_path.iterdir())


def test_hosts_with_folders_of_their_own_are_refused(tmp_path):
  for name in ("0", "1"):
    (tmp_path / name).mkdir()
  ended, _ = run("two_folders", FOLDER=str(tmp_path))
  assert [code for code, _ in ended] == [73] * 3
  for _, out in ended:
    assert "The workdir must be one folder that all hosts share, but host 1 (machine1)" in out
  assert not [p for p in tmp_path.rglob("*") if p.is_file()]
