"""Errors: what people read, and what a command exits with."""

import os
import subprocess
import sys
import time

import pytest

from paligemma_jax.core import errors


def test_pick_names_the_kind_the_key_and_the_near_match():
  with pytest.raises(errors.ConfigError, match=r"Unknown preset 'full_adm'.*'full_adam'"):
    errors.pick({"full_adam": 1, "sgd": 2}, "full_adm", "preset")


def test_pick_lists_what_is_known_when_nothing_is_near():
  with pytest.raises(errors.ConfigError, match=r"Known: 'adam', 'sgd'\."):
    errors.pick({"sgd": 1, "adam": 2}, "zzzzzz", "optimizer")


def test_the_place_of_bad_data_stands_before_its_reason():
  with pytest.raises(errors.DataError, match=r"^column 'x': it is bad$"):
    with errors.within("column 'x'"):
      raise errors.DataError("it is bad")
  with pytest.raises(errors.ConfigError, match=r"^as it was$"):
    with errors.within("column 'x'"):
      raise errors.ConfigError("as it was")


def test_pick_of_an_unhashable_key_is_a_config_error():
  with pytest.raises(errors.ConfigError, match="Unknown preset"):
    errors.pick({"a": 1}, ["a"], "preset")


@pytest.mark.parametrize(
  "error, code",
  [
    (errors.ConfigError, 78),
    (errors.DataError, 65),
    (errors.CheckpointError, 78),
    (errors.StateError, 74),
    (errors.WorkdirError, 73),
    (errors.NumericsError, 70),
    (errors.Interrupted, 75),
  ],
)
def test_a_command_says_one_sentence_and_exits_with_the_code_of_the_error(error, code, capsys):
  def main():
    raise error("the sentence.") from errors.DataError("the cause.")

  with pytest.raises(SystemExit) as exit_info:
    errors.run_main(main)
  assert exit_info.value.code == code
  assert capsys.readouterr().err == "error: the sentence.\n  because: the cause.\n"


def test_a_command_that_ends_well_exits_with_0():
  with pytest.raises(SystemExit) as exit_info:
    errors.run_main(lambda: None)
  assert exit_info.value.code == os.EX_OK


@pytest.mark.parametrize(("error", "code"), [("StallError", 66), ("DataError", 65), ("", 0)])
def test_a_command_ends_also_when_a_thread_of_it_never_does(error, code):
  raised = f"raise errors.{error}('the sentence.')" if error else "print('done')"
  script = (
    "import threading\nfrom paligemma_jax.core import errors\n"
    "def main():\n  threading.Thread(target=threading.Event().wait).start()\n"
    f"  {raised}\nerrors.run_main(main)\n"
  )
  start = time.monotonic()
  done = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
  )
  assert done.returncode == code
  assert (done.stdout, done.stderr) == (("", "error: the sentence.\n") if error else ("done\n", ""))
  assert time.monotonic() - start < 20


def test_our_own_mistakes_keep_their_traceback():
  def main():
    raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    errors.run_main(main)
