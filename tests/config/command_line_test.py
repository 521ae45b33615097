"""The command line: what it reads, what it says, how fast."""

import subprocess
import sys

import pytest

from paligemma_jax.config import command_line
from paligemma_jax.config import schema


def parser():
  p = command_line.Parser("train", "Trains.", "python -m paligemma_jax.train --config demo.py")
  p.add_argument("--steps", type=int, default=0)
  return p


def exit_of(capsys, *argv, code=2):
  with pytest.raises(SystemExit) as caught:
    parser().parse(argv)
  assert caught.value.code == code
  streams = capsys.readouterr()
  return streams.err if code else streams.out


def test_config_workdir_and_overrides_are_read_in_both_spellings():
  found = parser().parse(
    [
      "--config=transfers/vqav2.py:res=448,tune=lora",
      "--config.optim.lr=3e-5",
      "--workdir",
      "w",
      "--config.train.total",
      "15 epochs",
      "--steps=3",
      "--config.init=a=b",
      "--config.model.final_logits_softcap",
      "-1",
    ]
  )
  assert found.config == "transfers/vqav2.py:res=448,tune=lora"
  assert found.workdir == "w"
  assert found.steps == 3
  assert found.overrides == (
    ("optim.lr", "3e-5"),
    ("train.total", "15 epochs"),
    ("init", "a=b"),
    ("model.final_logits_softcap", "-1"),
  )


def test_nothing_given_is_nothing_set():
  found = parser().parse([])
  assert (found.config, found.workdir, found.overrides) == (None, None, ())


def test_a_boolean_key_alone_is_true():
  found = parser().parse(["--config.train.shuffle", "--workdir", "w"])
  assert found.overrides == (("train.shuffle", "true"),)


@pytest.mark.parametrize(
  "argv, message",
  [
    (["--wrkdir=x"], "There is no flag '--wrkdir'. Did you mean '--workdir'?"),
    (["--stesp", "3"], "There is no flag '--stesp'. Did you mean '--steps'"),
    (["--conf", "x"], "There is no flag '--conf'. Did you mean '--config'"),
    (["--cofnig.optim.lr=2"], "Did you mean '--config.optim.lr'?"),
    (["--optim.lr=2"], "Did you mean '--config.optim.lr'?"),
    (["--lr", "2"], "Did you mean '--config.optim.lr'?"),
    (["transfers/x.py"], "a configuration is given as --config transfers/x.py"),
    (["--config"], "--config: expected one argument"),
    (["--config.optim.lr"], "--config.optim.lr needs a value"),
    (["--config.optim.lr", "--workdir=w"], "--config.optim.lr needs a value"),
    (["--steps=x"], "invalid int value: 'x'"),
    (["--help-config", "lgo"], "There is no section 'lgo'. Did you mean 'log' or 'lora'?"),
  ],
)
def test_a_usage_error_is_one_sentence_and_exits_with_2(capsys, argv, message):
  text = exit_of(capsys, *argv)
  assert text.startswith("error: ")
  assert message in text
  assert text.endswith("See python -m paligemma_jax.train --help.\n")


def test_a_required_flag_that_is_missing_is_named(capsys):
  p = parser()
  with pytest.raises(SystemExit) as caught:
    p.require(p.parse(["--workdir=w"]), "workdir", "config")
  assert caught.value.code == 2
  assert "error: --config is required." in capsys.readouterr().err


def test_help_names_the_flags_an_example_and_the_exit_codes(capsys):
  text = exit_of(capsys, "--help", code=0)
  for part in (
    "--config FILE",
    "--config.optim.lr=3e-5",
    "--workdir",
    "--help-config",
    "--steps",
    "python -m paligemma_jax.train --config demo.py",
    "75 interrupted and saved",
  ):
    assert part in text


def test_help_config_lists_every_key_with_default_meaning_and_choices(capsys):
  text = exit_of(capsys, "--help-config", code=0)
  for path, key in schema.flat().items():
    assert f"--config.{path}={key.default!r}\n" in text
    assert " ".join(text.split()).count(key.text)
  assert "One of 'adam', 'adam8bit', 'adafactor', 'sgd'." in text


def test_help_config_of_a_section_lists_that_section_alone(capsys):
  text = exit_of(capsys, "--help-config", "ckpt", code=0)
  flags = [line for line in text.splitlines() if line.startswith("--")]
  assert len(flags) == len(schema.SCHEMA["ckpt"])
  assert all(flag.startswith("--config.ckpt.") for flag in flags)


def test_help_needs_no_jax_and_no_configuration_library():
  code = (
    "import sys, time\n"
    "from paligemma_jax.config import command_line as command\n"
    "try: command.Parser('train', 'Trains.', 'x').parse(['--help'])\n"
    "except SystemExit: pass\n"
    "assert not {'jax', 'tensorflow', 'ml_collections', 'numpy'} & set(sys.modules)\n"
    "assert time.process_time() < 0.5"  # CPU seconds from the start of Python; 0.06 if idle.
  )
  subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
