"""What happens to runs on several hosts, by real processes: `python -m tests.faults.several_hosts`.

Prints one line per story: what was done to which host, how all of them ended, after how many
seconds, and whether that is what docs/several_hosts.md promises. Exits with 1 if one is not.

  python -m tests.faults.several_hosts                 # all stories
  python -m tests.faults.several_hosts kill1 differ_lr # some
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

from tests import run_train
from tests.faults import several

WORDS = ("red", "blue", "green", "two tigers")
LONG = "100000 steps"


class Story:
  """A folder with data and a configuration, and runs of two hosts on it."""

  def __init__(self, folder):
    self.folder = folder
    self.data = make_rows(folder / "data")
    self.config = folder / "small.py"
    self.config.write_text(several.SMALL, encoding="utf-8")
    self.workdir = folder / "run"

  def args(self, **values):
    values = {"data": self.data, **values}
    return f"{self.config}:" + ",".join(f"{k}={v}" for k, v in values.items())

  def start(self, *flags, config_of=None, workdir_of=None, count=2, **options):
    config_of = config_of or (lambda i: self.args(total=LONG, save="5000 steps"))
    workdir_of = workdir_of or (lambda i: self.workdir)
    return several.Hosts(count, config_of, workdir_of, *flags, folder=self.folder, **options)


def make_rows(folder, num=16, bad=-1, changed=-1):
  from PIL import Image

  folder.mkdir(parents=True)
  lines = []
  for i in range(num):
    name = f"{i:04d}.png"
    if i != bad:
      Image.new("RGB", (32, 32), (40 * (i % 4), 60, 200)).save(folder / name)
    suffix = "a red wall" if i == changed else WORDS[i % 4]
    lines.append({"image": name, "prefix": "answer en what?", "suffix": suffix})
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (folder / "train.jsonl").write_text(text, encoding="utf-8")
  return folder


def promised(ended, secs, codes, *sentences, within=60.0):
  """What is not as promised, or ''."""
  found = [e.code for e in ended]
  wrong = [] if found == list(codes) else [f"expected exit codes {list(codes)}"]
  if secs > within:
    wrong.append(f"took longer than {within:.0f} s")
  for i, e in enumerate(ended):
    if e.code is not None and e.code < 0:
      continue  # It was killed.
    if "Traceback" in e.text or "Check failed" in e.text or "@     0x" in e.text:
      wrong.append(f"host {i} shows a stack trace")
    for sentence in sentences:
      if sentence not in e.text:
        wrong.append(f"host {i} does not say {sentence!r}")
  return "; ".join(wrong)


def alone(story):
  """Host 1 never comes."""
  with story.start("--hosts_join_secs", "15") as run:
    run.processes[1].kill()
    ended, secs = run.end()
  wrong = promised(ended[:1], secs, [69], "waiting for the other hosts since 10 s: 1 of 2 hosts")
  return ended, secs, wrong


def _differ(story, codes=(78, 78), sentence="The hosts differ in their", **options):
  with story.start(**options) as run:
    ended, secs = run.end()
  return ended, secs, promised(ended, secs, codes, sentence, "on host 0", "on host 1")


def differ_lr(story):
  """Host 1 has another learning rate."""
  return _differ(
    story,
    sentence="optim.lr is 0.001 on host 0",
    config_of=lambda i: story.args(total="4 steps", lr=2e-3 if i else 1e-3),
  )


def differ_seed(story):
  """Host 1 has another seed."""
  return _differ(
    story,
    sentence="seed is 0 on host 0",
    config_of=lambda i: story.args(total="4 steps", seed=2 if i else 0),
  )


def differ_data(story):
  """Host 1 has other rows, as many, under another path."""
  other = make_rows(story.folder / "other", changed=3)
  return _differ(
    story,
    sentence="training data: rows is",
    config_of=lambda i: story.args(total="4 steps", data=other if i else story.data),
  )


def differ_number(story):
  """Host 1 has fewer rows."""
  other = make_rows(story.folder / "other", num=8)
  return _differ(
    story,
    sentence="number of rows is 16 on host 0",
    config_of=lambda i: story.args(total="4 steps", data=other if i else story.data),
  )


def differ_code(story):
  """Host 1 runs other code: a copy of the package with one more comment."""
  copy = story.folder / "clone"
  shutil.copytree(run_train.ROOT / "paligemma_jax", copy / "paligemma_jax")
  with open(copy / "paligemma_jax" / "train.py", "a", encoding="utf-8") as f:
    f.write("# Another version.\n")
  return _differ(
    story,
    sentence="code: paligemma_jax is",
    prefix_of=lambda i: ("env", "-C", str(copy)) if i else (),
    config_of=lambda i: story.args(total="4 steps"),
  )


def differ_weights(story):
  """Host 1 starts from other weights of the same shapes."""
  paths = []
  for seed in (0, 1):
    done = run_train.run(
      story.args(total="1 steps", seed=seed),
      story.folder / f"weights{seed}",
      "--config.ckpt.export=npz",
      JAX_PLATFORMS="cpu",
    )
    assert done.returncode == 0, done.stderr
    paths.append(story.folder / f"weights{seed}" / "params.npz")
  configs = []
  for i, path in enumerate(paths):
    text = several.SMALL.replace("  return c", f"  c.init = {str(path)!r}\n  return c")
    configs.append(story.folder / f"host{i}" / "small.py")
    configs[-1].parent.mkdir()
    configs[-1].write_text(text, encoding="utf-8")
  return _differ(
    story,
    sentence="weights: weights is",
    config_of=lambda i: f"{configs[i]}:data={story.data},total=4 steps",
  )


def two_folders(story):
  """--workdir is a folder of each host's own."""
  with story.start(workdir_of=lambda i: story.folder / f"own{i}") as run:
    ended, secs = run.end()
  return ended, secs, promised(ended, secs, [73, 73], "must be one folder that all hosts share")


def two_mounts(story):
  """--workdir has one name, under which each host mounts a file system of its own."""
  story.workdir.mkdir()
  mount = f'mount -t tmpfs none {story.workdir} && exec "$@"'
  with story.start(prefix_of=lambda i: ("unshare", "-m", "sh", "-c", mount, "sh")) as run:
    ended, secs = run.end()
  return ended, secs, promised(ended, secs, [73, 73], "must be one folder that all hosts share")


def bad_row(story):
  """A row of host 1 is bad, in step 3."""
  shutil.rmtree(story.data)
  make_rows(story.data, num=32, bad=22)
  with story.start("--config.train.shuffle=False") as run:
    run.wait_for(1, "error: ")
    ended, secs = run.end()
  wrong = promised(ended, secs, [65, 65], "0022.png")
  rows = (story.workdir / "bad_rows.jsonl").read_text(encoding="utf-8")
  return ended, secs, wrong or ("" if "0022.png" in rows else "bad_rows.jsonl has no such row")


OWN_OP = """
import os
import time

@pj.spec
class OnHost1:
  def needs(self):
    return ()

  def makes(self):
    return ()

  def __call__(self, row, rng):
    if os.environ["JAX_PROCESS_ID"] == "1":
      {what}
    return row

@pj.sweepable"""


def _with_op(story, what):
  text = several.SMALL.replace("@pj.sweepable", OWN_OP.replace("{what}", what))
  text = text.replace("ops = (pp.Decode(),", "ops = (pp.Decode(), OnHost1(),")
  story.config.write_text(text, encoding="utf-8")


def mistake(story):
  """Code of the user's raises on host 1."""
  _with_op(story, 'raise KeyError("mine")')
  with story.start() as run:
    run.wait_for(1, "error: ")
    ended, secs = run.end()
  return ended, secs, promised(ended, secs, [78, 78], "OnHost1")


def stall(story):
  """The input of host 1 stands still."""
  _with_op(story, "time.sleep(3600)")
  with story.start("--config.train.stall_secs=20") as run:
    run.wait_for(1, "error: ")
    ended, secs = run.end()
  return ended, secs, promised(ended, secs, [66, 66])


def _lost(story, who, number, within=60.0):
  with story.start() as run:
    run.wait_for_step(3, story.workdir)
    run.signal(who, number)
    begin_codes = [69, 69]
    begin_codes[who] = None if number == signal.SIGSTOP else -number
    ended, secs = _end_of_others(run, who, within)
  wrong = promised(ended, secs, begin_codes, within=within)
  other = ended[1 - who].text
  if f"error: host {who}" not in other or "is gone" not in other:
    wrong += f"; host {1 - who} does not say that host {who} is gone"
  return ended, secs, wrong.strip("; ")


def _end_of_others(run, who, within):
  import time

  begin = time.monotonic()
  other = run.processes[1 - who]
  while other.poll() is None and time.monotonic() - begin < within + 10:
    time.sleep(0.05)
  secs = time.monotonic() - begin
  code = run.processes[who].poll()
  ended, _ = run.end(0.5)
  ended[who] = several.Ended(code, ended[who].text)
  return ended, secs


def kill0(story):
  """SIGKILL of host 0."""
  return _lost(story, 0, signal.SIGKILL)


def kill1(story):
  """SIGKILL of host 1."""
  return _lost(story, 1, signal.SIGKILL)


def freeze1(story):
  """SIGSTOP of host 1: it gives no sign of life, but its connections stay."""
  return _lost(story, 1, signal.SIGSTOP)


def freeze0(story):
  """SIGSTOP of host 0."""
  return _lost(story, 0, signal.SIGSTOP)


def _asked(story, who, number):
  with story.start() as run:
    run.wait_for_step(3, story.workdir)
    run.signal(who, number)
    ended, secs = run.end()
  wrong = promised(ended, secs, [75, 75], signal.Signals(number).name)
  saved = [int(p.name) for p in (story.workdir / "checkpoints").iterdir() if p.name.isdigit()]
  if not wrong and saved != [run_train.last_step(story.workdir)]:
    wrong = f"saved steps {saved}, but the last line is of {run_train.last_step(story.workdir)}"
  return ended, secs, wrong


def term0(story):
  """SIGTERM to host 0."""
  return _asked(story, 0, signal.SIGTERM)


def term1(story):
  """SIGTERM to host 1."""
  return _asked(story, 1, signal.SIGTERM)


def int0(story):
  """SIGINT to host 0."""
  return _asked(story, 0, signal.SIGINT)


def int1(story):
  """SIGINT to host 1."""
  return _asked(story, 1, signal.SIGINT)


def twice(story):
  """SIGINT to host 1, twice, while host 0 is frozen and nothing can be saved."""
  import time

  with story.start() as run:
    run.wait_for_step(3, story.workdir)
    run.signal(0, signal.SIGSTOP)
    time.sleep(1.0)
    run.signal(1, signal.SIGINT)
    time.sleep(1.0)
    run.signal(1, signal.SIGINT)
    ended, secs = _end_of_others(run, 0, 10.0)
  return ended, secs, promised(ended, secs, [None, 130], within=10.0)


def cable(story):
  """Hosts in two network namespaces; the cable between them is cut. Nothing is reset."""
  names = [f"pj{os.getpid()}a", f"pj{os.getpid()}b"]
  # `ip netns exec` puts this file in place of /etc/hosts: a host's name leads to its own address.
  hosts_files = [pathlib.Path("/etc/netns", name, "hosts") for name in names]

  def sh(text):
    subprocess.run(text, shell=True, check=True)

  try:
    for i, name in enumerate(names):
      sh(f"ip netns add {name} && ip -n {name} link set lo up")
      hosts_files[i].parent.mkdir(parents=True)
      hosts_files[i].write_text(f"127.0.0.1 localhost\n10.77.0.{i + 1} {socket.gethostname()}\n")
    sh(f"ip link add {names[0]} netns {names[0]} type veth peer name {names[1]} netns {names[1]}")
    for i, name in enumerate(names):
      sh(f"ip -n {name} addr add 10.77.0.{i + 1}/24 dev {name} && ip -n {name} link set {name} up")
    with story.start(
      prefix_of=lambda i: ("ip", "netns", "exec", names[i]), address="10.77.0.1:4321"
    ) as run:
      run.wait_for_step(3, story.workdir)
      sh(f"ip -n {names[1]} link set {names[1]} down")
      ended, secs = run.end()
  finally:
    for name in names:
      subprocess.run(f"ip netns del {name}", shell=True, check=False)
    for file in hosts_files:
      shutil.rmtree(file.parent, ignore_errors=True)
  return ended, secs, promised(ended, secs, [69, 69], "is gone: nothing was heard of it")


STORIES = {
  f.__name__: f
  for f in (
    alone,
    differ_lr,
    differ_seed,
    differ_data,
    differ_number,
    differ_code,
    differ_weights,
    two_folders,
    two_mounts,
    bad_row,
    mistake,
    stall,
    kill0,
    kill1,
    freeze0,
    freeze1,
    term0,
    term1,
    int0,
    int1,
    twice,
    cable,
  )
}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("stories", nargs="*", help=", ".join(STORIES))
  args = parser.parse_args()
  num_wrong = 0
  with tempfile.TemporaryDirectory() as top:
    for name in args.stories or STORIES:
      ended, secs, wrong = STORIES[name](Story(pathlib.Path(top) / name))
      num_wrong += bool(wrong)
      told = next((line for e in ended for line in e.errors), "")
      print(
        f"{name}: {STORIES[name].__doc__} {[e.code for e in ended]} after {secs:.0f} s:"
        f" {wrong or 'as promised'}: {told[:200]}",
        flush=True,
      )
      if wrong:
        for e in ended:
          print("    " + "\n    ".join(e.text.splitlines()[-12:]))
  sys.exit(1 if num_wrong else 0)


if __name__ == "__main__":
  main()
