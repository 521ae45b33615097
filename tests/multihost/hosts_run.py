"""One host of a team, in a process of its own without JAX: PORT COUNT INDEX STORY."""

import os
import pathlib
import signal
import sys
import time

from paligemma_jax.core import errors
from paligemma_jax.core import process
from paligemma_jax.multihost import agreement
from paligemma_jax.multihost import channel
from paligemma_jax.multihost import hosts


def made(port, count, index, stall_secs=60.0):
  name = f"machine{index}"
  if index:
    ours = channel.Spoke(("127.0.0.1", port), index, count, name)
  else:
    ours = channel.Hub(port, count, name)
  return hosts.Team(ours, stall_secs=stall_secs)


def joined(port, count, index, **options):
  team = made(port, count, index, **options)
  team.meet(60.0, lambda missing: None)
  return team


def step(team, i):
  """What a step is to a team: all wait for each other, then a safe point."""
  team.doing(f"in step {i}")
  team.gather(f"step {i}", i)
  return team.stop_here()


def values(port, count, index):
  team = joined(port, count, index)
  with hosts.ending_together(team):
    # What has a key is not in the common order: host 0 asks for it later than the others do.
    def keyed():
      return team.gather("double", index * 2, key="of its own")

    early = process.started(keyed) if index else None
    square = team.gather("square", index**2)
    double = early.result() if early else keyed()
    print(square, double, team.gather("name", f"n{index}"), flush=True)


def missing(port, count, index):
  made(port, count + 1, index).meet(6.0 + 6.0 * index, lambda missing: None)


def other_count(port, count, index):
  made(port, count + index, index).meet(5.0, lambda missing: None)


def same_number(port, count, index):
  team = made(port, count + 1, min(index, 1))
  team.meet(10.0 if index > 1 else 6.0, lambda missing: None)


def bad_row(port, count, index):
  team = joined(port, count, index)
  with hosts.ending_together(team):
    if not index:
      team.take_bad_rows(lambda **row: print("rejected", row, flush=True))
    for i in range(100):
      if i == 3 and index == count - 1:
        team.send_bad_row({"row": 5})
        raise errors.DataError("row 5 is bad")
      step(team, i)


def mistake(port, count, index):
  team = joined(port, count, index)
  with hosts.ending_together(team):
    for i in range(100):
      if i == 3 and index == 1:
        raise ValueError("a mistake")
      step(team, i)


def killed(port, count, index, who):
  team = joined(port, count, index)
  with hosts.ending_together(team):
    for i in range(1000):
      if i == 3 and index == who:
        os.kill(os.getpid(), signal.SIGKILL)
      step(team, i)


def frozen(port, count, index):
  channel.SILENT_SECS = 4.0
  team = joined(port, count, index)
  with hosts.ending_together(team):
    for i in range(1000):
      if i == 3 and index == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
      step(team, i)


def stuck(port, count, index):
  team = joined(port, count, index, stall_secs=4.0)
  with hosts.ending_together(team):
    for i in range(1000):
      if i == 3 and index == 1:
        team.doing("reading data")
        time.sleep(3600)
      step(team, i)


def stopped(port, count, index):
  team = joined(port, count, index)
  with hosts.ending_together(team):
    done = 0
    while not step(team, done):
      done += 1
      if index == 1 and done == 5:
        team.ask_stop("SIGTERM")
      # The hosts run ahead of each other, as far as a step lets them.
      time.sleep(0.003 * index)
    print("stopped after", done, flush=True)
    raise errors.Interrupted(f"{team.asked}: stopped")


def agree(port, count, index):
  team = joined(port, count, index)
  with hosts.ending_together(team):
    agreement.check(team, "configuration", {"optim.lr": 1e-3, "seed": 0})
    agreement.check(team, "code", agreement.of_code())
    print("agreed", flush=True)


def differ(port, count, index):
  team = joined(port, count, index)
  with hosts.ending_together(team):
    agreement.check(team, "configuration", {"optim.lr": 2e-3 if index == 2 else 1e-3, "seed": 0})


def one_folder(port, count, index):
  team = joined(port, count, index)
  with hosts.ending_together(team):
    agreement.check_folder(team, pathlib.Path(os.environ["FOLDER"]))
    print("one folder", flush=True)


def two_folders(port, count, index):
  agreement._FOLDER_SECS = 2.0
  team = joined(port, count, index)
  with hosts.ending_together(team):
    agreement.check_folder(team, pathlib.Path(os.environ["FOLDER"]) / str(min(index, 1)))


STORIES = {
  f.__name__: f
  for f in (
    values,
    missing,
    other_count,
    same_number,
    bad_row,
    mistake,
    frozen,
    stuck,
    stopped,
    agree,
    differ,
    one_folder,
    two_folders,
  )
}
STORIES |= {
  "killed0": lambda *a: killed(*a, who=0),
  "killed1": lambda *a: killed(*a, who=1),
}

if __name__ == "__main__":
  port_, count_, index_ = map(int, sys.argv[1:4])
  errors.run_main(lambda: STORIES[sys.argv[4]](port_, count_, index_))
