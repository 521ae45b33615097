"""Reads hostile inputs in a process of its own and says what each came to, cost and took.

    python -m tests.hostile.measure images FOLDER   # Every file of the folder, through pp.Decode.
    python -m tests.hostile.measure videos FOLDER   # Every file of the folder, 4 frames of it.
    python -m tests.hostile.measure rows FOLDER     # Every pickled source of the folder, row 0.

One JSON line an input: its name, the decision, megabytes over the idle process, seconds of a core.
"""

import json
import pathlib
import pickle
import sys
import time

import numpy as np

import paligemma_jax as pj
from paligemma_jax import pp
from paligemma_jax.sources import video


def _status(key):
  with open("/proc/self/status", encoding="ascii") as f:
    return next(int(line.split()[1]) for line in f if line.startswith(key)) / 1024


def _image(path):
  pp.Decode()({"image": path.read_bytes()}, np.random.default_rng(0))


def _video(path):
  with open(path, "rb") as f:
    video.decode(f, path.name, num=4, stride=0)


def _row(path):
  pickle.loads(path.read_bytes()).open()[0]


def main(kind, folder):
  read = {"images": _image, "videos": _video, "rows": _row}[kind]
  idle = None
  for path in sorted(pathlib.Path(folder).iterdir(), key=lambda p: p.name):
    with open("/proc/self/clear_refs", "w", encoding="ascii") as f:
      f.write("5")  # The peak begins anew.
    now = _status("VmRSS")
    idle = now if idle is None else idle
    begin = time.process_time()
    logged = ""
    try:
      read(path)
      decision = "accept"
    except pj.PaligemmaError as e:
      decision, logged = "reject", str(e)
    except Exception as e:  # What no reader may let out.
      decision, logged = "raw", repr(e)
    took = time.process_time() - begin
    # What the allocator keeps of an input before is not this one's.
    over = _status("VmHWM") - min(idle, now)
    print(json.dumps([path.name, decision, round(over), round(took, 2), logged[:300]]), flush=True)


if __name__ == "__main__":
  main(*sys.argv[1:])
