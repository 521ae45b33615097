"""Worker processes change no batch; a dead or stuck one is an error, never a hang."""

import multiprocessing
import time

import pytest

from paligemma_jax.core import errors
from tests.data import loading
from tests.data import rows_and_ops


@pytest.fixture(scope="module")
def tokenizer():
  return loading.read_tokenizer()


@pytest.mark.slow  # 6 s: starts worker processes.
def test_worker_processes_change_nothing_also_from_the_middle_on(tokenizer):
  expected = loading.take(loading.make(tokenizer), 7)
  in_workers = loading.make(tokenizer, num_workers=2, num_threads=1, prefetch=2)
  found = loading.take(in_workers, 5, start_step=2)
  loading.assert_same(found, expected[2:])


@pytest.mark.slow  # 4 s: starts a worker process.
def test_a_killed_worker_is_an_error_that_names_it(tokenizer):
  ops = (*loading.OPS, rows_and_ops.Die(9))
  start = time.monotonic()
  # It reads ahead: the row that is waited for may be one before the one at which it dies.
  named = r"process 0 \(pid \d+\) of the loader was killed by SIGKILL.*row \d+ \(rows.txt:\d+\)"
  with pytest.raises(errors.StallError, match=named):
    loading.take(loading.make(tokenizer, ops=ops, num_workers=1, num_threads=1), 5)
  assert time.monotonic() - start < 60


@pytest.mark.slow  # 12 s: starts a worker process and waits until it is called stuck.
def test_a_stuck_worker_is_an_error_and_is_ended(tokenizer):
  ops = (*loading.OPS, rows_and_ops.Sleep(at=9, secs=1e6))
  start = time.monotonic()
  named = r"stalled.*row 9 \(rows.txt:10\), which worker process 0"
  with pytest.raises(errors.StallError, match=named):
    loading.take(loading.make(tokenizer, ops=ops, num_workers=1, num_threads=1, stall_secs=3.0), 5)
  assert time.monotonic() - start < 60
  assert not multiprocessing.active_children()
