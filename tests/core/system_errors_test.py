"""Errors of the system and of JAX: one sentence each, with the exit code that the help names."""

import errno
import os
import re

import jax
import jax.numpy as jnp
import pytest

from paligemma_jax.core import errors


def _of_jax(logged):
  return jax.errors.JaxRuntimeError(logged)


@pytest.mark.parametrize(
  "logged, told",
  [
    (
      "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 2150744064 bytes.",
      "it has 16.00 GiB, 2.00 GiB more were asked for.",
    ),
    (
      "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 21.54GiB.",
      "it has 16.00 GiB, 21.54 GiB more were asked for.",
    ),
    (
      "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space"
      " hbm. Used 20.05G of 15.75G hbm. Exceeded hbm capacity by 4.30G.\n\nTotal hbm usage",
      "it has 15.75 GiB, the program needs 20.05 GiB.",
    ),
    (
      "RESOURCE_EXHAUSTED: Error allocating device buffer: Attempting to allocate 2.00G. That"
      " was not possible. There are 1.12G free.; (0x0x0_HBM0)",
      "it has 16.00 GiB, 2.00 GiB more were asked for.",
    ),
    (
      "INTERNAL: Failed to allocate 3221225472 bytes: CUDA_ERROR_OUT_OF_MEMORY: none left",
      "it has 16.00 GiB, 3.00 GiB more were asked for.",
    ),
    ("RESOURCE_EXHAUSTED: no more", "it has 16.00 GiB."),
  ],
)
def test_a_device_without_memory_says_what_it_has_what_was_asked_for_and_what_helps(logged, told):
  error = errors.translated(_of_jax(logged), remedies=["a=2", "b=1"], memory_bytes=2**34)
  assert isinstance(error, errors.OutOfMemoryError) and error.exit_code == 71
  assert f"ran out of memory: {told} What helps, the cheapest first: a=2; b=1." in str(error)
  assert logged.partition("\n")[0][:240] in str(error) and "\n" not in str(error)


def test_an_array_that_no_machine_has_room_for_is_such_an_error():
  with pytest.raises(jax.errors.JaxRuntimeError) as found:
    jax.block_until_ready(jnp.zeros(2**46))
  error = errors.translated(found.value)
  assert isinstance(error, errors.OutOfMemoryError)
  assert "262144.00 GiB more were asked for" in str(error)


def test_the_machine_without_memory_is_one_too():
  error = errors.translated(MemoryError("Unable to allocate 3 TiB"))
  assert isinstance(error, errors.OutOfMemoryError)
  assert "Unable to allocate 3 TiB" in str(error) and "fewer workers" in str(error)


@pytest.mark.parametrize(
  "error, kind, told",
  [
    (OSError(errno.ENOSPC, "No space", "/a/b"), errors.StateError, "'/a/b'.*no space left"),
    (OSError(errno.EDQUOT, "quota"), errors.StateError, "the disk quota is used up"),
    # What the writer of arrays says of a full disk is no lack of memory.
    (
      ValueError('RESOURCE_EXHAUSTED: writing "x" [OS error 28: No space left on device]'),
      errors.StateError,
      "no space left",
    ),
    (OSError(errno.EROFS, "Read-only file system", "/a"), errors.WorkdirError, "Read-only"),
    (PermissionError(errno.EACCES, "Permission denied", "/a"), errors.StateError, "Permission"),
  ],
)
def test_a_file_that_the_system_refuses_is_one_sentence(error, kind, told):
  found = errors.translated(error)
  assert type(found) is kind
  assert re.search(told, str(found))


def test_what_it_was_raised_from_counts():
  try:
    try:
      raise OSError(errno.ENOSPC, "No space left on device", "/a/b")
    except OSError as e:
      raise RuntimeError("the writer failed") from e
  except RuntimeError as e:
    assert isinstance(errors.translated(e), errors.StateError)


def test_our_own_mistakes_are_none_of_them_and_our_own_errors_stay():
  for error in (ValueError("x"), _of_jax("INVALID_ARGUMENT: shapes"), FileNotFoundError(2, "no")):
    assert errors.translated(error) is None
  mine = errors.DataError("a row.")
  assert errors.translated(mine) is mine


def test_a_command_that_meets_one_ends_with_its_code_and_no_traceback(capsys):
  def main():
    raise OSError(errno.ENOSPC, "No space left on device", "/runs/a")

  with pytest.raises(SystemExit) as exit_info:
    errors.run_main(main)
  assert exit_info.value.code == os.EX_IOERR
  assert capsys.readouterr().err == (
    "error: A file '/runs/a' cannot be written: no space left on the disk. Free some.\n"
  )
