"""The commands under one name: listed fast, named near when misspelled, the same as the modules."""

import importlib
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

from paligemma_jax import cli
from paligemma_jax import completion
from paligemma_jax.config import command_line
from paligemma_jax.config import config_file

ROOT = pathlib.Path(__file__).resolve().parent.parent


def call(*args, cwd=ROOT):
  return subprocess.run(
    [sys.executable, "-m", "paligemma_jax", *map(str, args)],
    cwd=cwd,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    text=True,
    capture_output=True,
    check=False,
  )


@pytest.mark.parametrize("args", [(), ("--help",), ("-h",)])
def test_alone_and_for_help_the_commands_are_listed(args):
  done = call(*args)
  assert done.returncode == 0, done.stderr
  listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
  assert listed == list(cli.COMMANDS)


def test_the_list_comes_at_once():
  code = "import sys; from paligemma_jax import cli; cli.listing(); print(*sys.modules)"
  loaded = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
  ).stdout.split()
  assert not {"jax", "numpy", "ml_collections", "argparse"} & set(loaded)
  begin = time.process_time(), sum(os.times()[2:4])
  call()
  assert sum(os.times()[2:4]) - begin[1] < 0.5  # Seconds of processor time, of a busy machine too.


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_is_a_module_and_answers_to_help(name):
  module = importlib.import_module(f"paligemma_jax.{name}")
  assert module.__doc__.partition("\n")[0]
  done = call(name, "--help")
  assert done.returncode == 0, done.stderr
  assert f"usage: python -m paligemma_jax.{name}" in done.stdout


def test_every_module_beside_the_package_that_is_a_command_is_listed():
  no_commands = {"__init__", "__main__", "api", "cli", "looking", "presets"}
  modules = {path.stem for path in (ROOT / "paligemma_jax").glob("*.py")}
  assert modules - no_commands == set(cli.COMMANDS)


def test_a_mistyped_command_names_the_near_match():
  done = call("trian")
  assert done.returncode == 2
  assert "no command 'trian'. Did you mean 'train'" in done.stderr and "--help" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("args", ["version", "prepare", "--help", "train --help"])
def test_a_reader_that_has_seen_enough_ends_a_command_in_silence(args, unbuffered):
  command = f"{sys.executable} -m paligemma_jax {args}"
  done = subprocess.run(
    ["bash", "-c", f"({command}; echo $? >&2) | (exec <&-; sleep 3)"],
    cwd=ROOT,
    env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered},
    text=True,
    capture_output=True,
    check=False,
  )
  assert done.stderr in ("0\n", "141\n")


def test_usage_says_what_was_called(monkeypatch):
  assert command_line.called("train") == "python -m paligemma_jax.train"
  monkeypatch.setattr(sys, "argv", ["/usr/bin/paligemma-jax", "train"])
  assert command_line.called("train") == "paligemma-jax train"
  assert importlib.import_module("paligemma_jax.train").parser().prog == "paligemma-jax train"


def test_an_error_has_the_exit_code_of_the_module(tmp_path):
  done = call("train", "--config", "okvqqa", "--workdir", tmp_path / "w", cwd=tmp_path)
  assert done.returncode == 78
  assert "no config file 'okvqqa'. Did you mean 'okvqa'" in done.stderr


def test_version_names_packages_and_brings_up_no_device():
  done = subprocess.run(
    [sys.executable, "-X", "importtime", "-m", "paligemma_jax.version"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  names = [line.split()[0] for line in done.stdout.splitlines()]
  assert {"paligemma_jax", "python", "jax", "jaxlib", "platform"} <= set(names)
  assert not [line for line in done.stderr.splitlines() if line.split("|")[-1].strip() == "jax"]


def test_new_copies_the_template_and_writes_over_nothing(tmp_path):
  done = call("new", "cats.py", cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  copied = (tmp_path / "cats.py").read_text()
  template = (ROOT / "transfers" / "forkme.py").read_text()
  assert copied == template.replace("mine.py", "cats.py").replace("runs/mine", "runs/cats")
  assert "--config cats.py --workdir runs/cats" in done.stdout
  assert "--config cats.py --workdir runs/cats" in copied
  (tmp_path / "cats.py").write_text("precious")
  again = call("new", "cats.py", cwd=tmp_path)
  assert again.returncode == 78 and "cats.py exists; nothing was changed" in again.stderr
  assert (tmp_path / "cats.py").read_text() == "precious"


@pytest.mark.parametrize(
  "args, words",
  [
    (("cats",), "name it 'cats.py'"),
    (("nowhere/cats.py",), "no folder 'nowhere'"),
    (("cats.py", "--page", "okvqqa"), "Did you mean 'okvqa'"),
  ],
)
def test_new_says_what_is_wrong(args, words, tmp_path):
  done = call("new", *args, cwd=tmp_path)
  assert done.returncode == 78 and words in done.stderr
  assert not list(tmp_path.iterdir())


def test_new_copies_any_page_with_the_commands_that_run_the_copy(tmp_path):
  assert call("new", "cats.py", "--page", "okvqa", cwd=tmp_path).returncode == 0
  text = (tmp_path / "cats.py").read_text()
  assert "--config cats.py:res=448 --workdir runs/cats" in text
  assert "transfers/okvqa.py" not in text


def test_prepare_lists_the_benchmarks_from_any_folder(tmp_path):
  done = call("prepare", cwd=tmp_path)
  assert "okvqa" in done.stdout.splitlines(), done.stderr
  assert "okvqa.allenai.org" in call("prepare", "okvqa", cwd=tmp_path).stdout


TRIES = [
  (["tr"], ["train"]),
  (["train", "--res"], ["--resume_step"]),
  (["train", "--config", "okv"], ["okvqa"]),
  (["train", "--config.optim.b"], ["--config.optim.b1=", "--config.optim.b2="]),
  (["prepare", "okv"], ["okvqa"]),
  (["completion", "fi"], ["fish"]),
]


@pytest.mark.parametrize("words, expected", TRIES, ids=lambda value: " ".join(map(str, value)))
def test_bash_completes(words, expected):
  line = " ".join(f'"{word}"' for word in ("paligemma-jax", *words))
  script = f"""{completion.SHELLS["bash"](completion.words())}
COMP_WORDS=({line}); COMP_CWORD={len(words)}
_paligemma_jax 2> /dev/null
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
  done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
  assert sorted(done.stdout.split()) == expected


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize("words, expected", TRIES, ids=lambda value: " ".join(map(str, value)))
def test_fish_completes(words, expected, tmp_path):
  script = tmp_path / "paligemma-jax.fish"
  script.write_text(completion.SHELLS["fish"](completion.words()))
  line = " ".join(["paligemma-jax", *words])
  command = f"source {script}; complete -C '{line}'"
  done = subprocess.run(
    ["fish", "-N", "-c", command],
    cwd=tmp_path,
    env={**os.environ, "HOME": str(tmp_path)},
    capture_output=True,
    text=True,
    check=True,
  )
  assert sorted({line.split("\t")[0] for line in done.stdout.splitlines()}) == expected


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_offers_commands_flags_and_pages():
  script = f"""compdef() {{ :; }}
compadd() {{ print -r -- $*; }}
_describe() {{ print -rl -- ${{(P)2}}; }}
_files() {{ :; }}
{completion.SHELLS["zsh"](completion.words())}
words=(paligemma-jax tr); CURRENT=2; _paligemma_jax
words=(paligemma-jax train --res); CURRENT=3; _paligemma_jax
words=(paligemma-jax train --config ok); CURRENT=4; _paligemma_jax
"""
  done = subprocess.run(["zsh", "-f", "-c", script], capture_output=True, text=True, check=True)
  lines = done.stdout.splitlines()
  assert [line.partition(":")[0] for line in lines[: len(cli.COMMANDS)]] == list(cli.COMMANDS)
  assert "--resume_step" in lines[-3] and "--config.optim.lr=" in lines[-2]
  assert lines[-1].split()[1:] == config_file.page_names()
