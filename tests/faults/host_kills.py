"""Kills one of the hosts of a run, again and again: `python -m tests.faults.host_kills --kills 20`.

Prints where each kill landed and how both hosts ended. Exits with 1 if the other host did not end
by itself, or if a run that was killed leaves other bits than one that was not.
"""

import argparse
import contextlib
import pathlib
import random
import signal
import sys
import tempfile

import numpy as np

from paligemma_jax.core import bucket
from tests import bucket_client
from tests import run_train
from tests.faults import several_hosts


def kills(folder, num, seed, count=2, place=None):
  """Kills one of `count` hosts `num` times, five times a run; what differs in the end, or ''.

  Args:
    place: the folder of the runs, which may be in a bucket.
  """
  place = place or folder
  rng = random.Random(seed)
  story = several_hosts.Story(folder)
  steps = 40
  args = story.args(total=f"{steps} steps", save="4 steps", ev=True)

  def start(workdir, **options):
    options |= {"config_of": lambda i: args, "workdir_of": lambda i: workdir, "count": count}
    return story.start(**options)

  reference = place / "reference"
  with start(reference) as run:
    ended, _ = run.end(600.0)
  assert [e.code for e in ended] == [0] * count, [e.text[-2000:] for e in ended]
  points = ("state.before_arrays", "state.after_arrays", "state.after_seal", "state.after_rename")
  where, done, round_i, differences = [], 0, 0, []
  while done < num:
    workdir = place / f"killed{round_i}"
    round_i += 1
    for _ in range(min(5, num - done)):
      who = rng.randrange(count)
      if rng.random() < 0.6:  # Inside a save. Only host 0 seals and renames.
        point = rng.choice(points if who == 0 else points[:2])
        fault = f"{point}:exit@{rng.randrange(1, 3)}"
        envs = [{} for _ in range(count)]
        envs[who] = {"PJ_FAULT": fault}
        with start(workdir, env_of=envs.__getitem__) as run:
          ended, secs = run.end(300.0)
        spot = f"host {who} {fault}"
      else:
        step = run_train.last_step(workdir) + rng.randrange(1, 7)
        with start(workdir) as run:
          run.wait_for_step(step, workdir)
          run.signal(who, signal.SIGKILL)
          ended, secs = run.end(90.0)
        spot = f"host {who} SIGKILL at step {run_train.last_step(workdir)}"
      codes = [e.code for e in ended]
      done += 1
      where.append(spot)
      print(f"  kill {done}: {spot}: exit codes {codes}, {secs:.0f} s", flush=True)
      others = [code for i, code in enumerate(codes) if i != who]
      if not set(others) <= {69, 0}:
        differences.append(f"{spot}: the other hosts ended with {others}")
    with start(workdir) as run:
      ended, _ = run.end(600.0)
    if [e.code for e in ended] != [0] * count:
      differences.append(f"the last start ended with {[e.code for e in ended]}")
    elif what := unlike(workdir, reference):
      differences.append(what)
  in_saves = sum("state." in spot for spot in where)
  print(f"{done} kills, {in_saves} of them inside a save, in {round_i} runs")
  return "; ".join(differences)


def unlike(workdir, reference):
  """What differs between two finished runs, or ''."""
  if run_train.metric_lines(workdir) != run_train.metric_lines(reference):
    return f"{workdir.name}: other metrics"
  state, expected = run_train.state_arrays(workdir), run_train.state_arrays(reference)
  if state.keys() != expected.keys():
    return f"{workdir.name}: other arrays"
  names = [n for n in expected if not np.array_equal(state[n], expected[n])]
  return f"{workdir.name}: {names[0]} differs" if names else ""


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--kills", type=int, default=20)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--hosts", type=int, default=2, help="1: a run on one host")
  parser.add_argument("--bucket", action="store_true", help="the runs are in a bucket")
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as top, contextlib.ExitStack() as stack:
    place = None
    if args.bucket:
      stack.enter_context(bucket_client.running())
      place = bucket.path("gs://test-bucket/kills")
    what = kills(pathlib.Path(top) / "kills", args.kills, args.seed, args.hosts, place)
  print(what or "all runs ended with the bits of the undisturbed one")
  sys.exit(1 if what else 0)


if __name__ == "__main__":
  main()
