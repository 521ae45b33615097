"""A side of a comparison without a model: it writes down when it ran. NAME FILE SECONDS"""

import sys
import time

from tools.bench import side


def prepare():
  """The task appends the name to the file; chatter on stdout must not disturb anybody."""
  name, path, seconds = sys.argv[1:]
  print("some library says hello")
  big = bytearray(int(2e8)) if name == "big" else b""
  if name == "broken":
    raise SystemExit(3)

  def task():
    print("working")
    with open(path, "a", encoding="utf-8") as f:
      f.write(f"{name}\n")
    time.sleep(float(seconds))
    return [name, len(big)]

  return {"version": "1.0"}, task


if __name__ == "__main__":
  side.serve(prepare)
