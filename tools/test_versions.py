"""Runs the tests with several versions of Python and JAX, each pair in its own environment.

    python tools/test_versions.py                    # 3.11 to 3.13, JAX 0.10.2 and the newest
    python tools/test_versions.py --python 3.13 --jax newest -- -m "not slow and not long"

A Python is a path, or a version found on PATH (python3.13) or in pyenv. Arguments after `--` go to
pytest. Each pair runs on a copy of the files in git; the table names the log file. Exits with 1 if
any pair failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_PYTHONS = ("3.11", "3.12", "3.13")
_OLDEST, _NEWEST = "0.10.2", "newest"
_ABSENT = "Requires-Python"  # In pip's message if JAX does not support this Python.


@dataclasses.dataclass(frozen=True)
class Tried:
  """One pair: its versions, its result, its time, its log."""

  python: str
  jax: str
  result: str
  secs: float
  log: pathlib.Path


def interpreter(name: str) -> str:
  """The path of a Python given by path or version; '' if there is none."""
  found = shutil.which(name) or shutil.which(f"python{name}")
  # pyenv's shims on PATH fail if the version is not selected.
  if found and not subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode:
    return found
  if not shutil.which("pyenv"):
    return ""
  command = ["pyenv", "versions", "--bare"]
  versions = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
  fitting = [v for v in versions if v == name or v.startswith(f"{name}.")]
  if not fitting:
    return ""
  command = ["pyenv", "prefix", fitting[-1]]
  prefix = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
  return str(pathlib.Path(prefix) / "bin" / "python3")


def copy(folder: pathlib.Path) -> None:
  """Copies the tracked files of this tree, with their changes, to `folder`."""
  command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
  done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True)
  for name in filter(None, done.stdout.split("\0")):
    if (_ROOT / name).is_file():
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy2(_ROOT / name, folder / name)


def try_pair(python: str, jax: str, pytest_args: list[str], folder: pathlib.Path) -> Tried:
  """Creates the environment and runs the tests in it."""
  begin = time.monotonic()
  folder.mkdir(parents=True)
  log = folder / "log.txt"
  tree = folder / "tree"
  copy(tree)
  own = str(folder / "venv" / "bin" / "python")
  pins = [] if jax == _NEWEST else [f"jax=={jax}", f"jaxlib=={jax}"]
  steps = (
    ("no environment", [python, "-m", "venv", str(folder / "venv")]),
    ("not installed", [own, "-m", "pip", "install", "-r", "requirements-test.txt", *pins]),
    ("failed", [own, "-m", "pytest", *pytest_args]),
  )
  result = "passed"
  with log.open("w") as f:
    for what, command in steps:
      f.write(f"+ {' '.join(command)}\n")
      f.flush()
      done = subprocess.run(command, cwd=tree, stdout=f, stderr=subprocess.STDOUT, check=False)
      if done.returncode:
        result = what
        break
  if result == "not installed" and _ABSENT in log.read_text():
    result = "no such JAX for this Python"
  code = "import platform, importlib.metadata as m; print(platform.python_version())"
  code += "; print(m.version('jax'))"
  installed = result in ("passed", "failed")
  found = subprocess.run([own, "-c", code], capture_output=True, text=True) if installed else None
  version, jax = found.stdout.split() if found else (python, jax)
  return Tried(version, jax, result, time.monotonic() - begin, log)


def main() -> None:
  """Tests all pairs; prints a line for each."""
  end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
  own, rest = sys.argv[1:end], sys.argv[end + 1 :]
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--python", nargs="+", default=_PYTHONS, metavar="VERSION")
  parser.add_argument("--jax", nargs="+", default=(_OLDEST, _NEWEST), metavar="VERSION")
  parser.add_argument("--keep", type=pathlib.Path, help="a new folder for environments and logs")
  args = parser.parse_args(own)
  found = {name: interpreter(name) for name in args.python}
  if absent := [name for name, path in found.items() if not path]:
    parser.error(f"There is no Python {' and no '.join(absent)} here.")
  folder = args.keep or pathlib.Path(tempfile.mkdtemp(prefix="paligemma_jax_versions_"))
  print("| Python | JAX | tests | minutes | log |\n|---|---|---|---|---|", flush=True)
  failed = False
  for name, python in found.items():
    for jax in args.jax:
      place = folder.absolute() / f"{name.replace('/', '_')}-{jax}"
      one = try_pair(python, jax, rest or ["-n", "2"], place)
      failed |= one.result not in ("passed", "no such JAX for this Python")
      row = (one.python, one.jax, one.result, f"{one.secs / 60:.0f}", one.log)
      print("| " + " | ".join(map(str, row)) + " |", flush=True)
  sys.exit(int(failed))


if __name__ == "__main__":
  main()
