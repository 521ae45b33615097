"""What the README shows exists and is meant as it stands."""

import pathlib
import re
import subprocess
import sys

import pytest

from paligemma_jax.core import errors

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def first_bash_block(heading):
  section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
  return re.search(r"```bash\n(.*?)```", section, re.DOTALL)[1].strip()


def test_the_run_and_test_commands_are_one_line_each_and_make_their_own_environment():
  for heading in ("Run it", "Test it"):
    command = first_bash_block(heading)
    assert "\n" not in command
    assert command.startswith("python3 -m venv .venv && ")


def test_ci_runs_the_test_command_of_the_readme():
  script = (ROOT / ".ci" / "run").read_text()
  program = re.search(r"awk '(.*?)' README.md", script)[1]
  found = subprocess.run(
    ["awk", program, "README.md"], cwd=ROOT, capture_output=True, text=True, check=True
  )
  assert found.stdout.strip() == first_bash_block("Test it")


PATHS = sorted(set(re.findall(r"(?:transfers|configs|docs|requirements)/\w+\.\w+", README)))
MODULES = sorted(set(re.findall(r"-m (paligemma_jax\.\w+)", README)))


@pytest.mark.parametrize("path", PATHS)
def test_files_that_are_named_exist(path):
  assert (ROOT / path).exists()


@pytest.mark.parametrize("module", MODULES)
def test_commands_that_are_named_answer_to_help(module):
  command = [sys.executable, "-m", module, "--help"]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  assert f"usage: python -m {module}" in done.stdout


def test_exit_codes_are_those_of_the_errors():
  kinds = [v for v in vars(errors).values() if isinstance(v, type)]
  codes = {k.exit_code for k in kinds if k.__name__ != "PaligemmaError" and hasattr(k, "exit_code")}
  line = README.split("Exit codes: ")[1].split("\n\n")[0]
  assert codes == {int(n) for n in re.findall(r"\b\d+\b", line)} - {0, 2, 130, 143}
