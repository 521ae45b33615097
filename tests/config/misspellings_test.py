"""Every way to drop, double or swap a letter of every key is an error with the near match."""

import pytest

from paligemma_jax.config import config_file
from paligemma_jax.config import load
from paligemma_jax.config import schema
from paligemma_jax.core import errors
from tests.core import stand_ins

KEYS = schema.flat()


def mutations(word):
  """Each way to drop, double or swap a letter, without the word itself."""
  found = set()
  for i in range(len(word)):
    found |= {word[:i] + word[i + 1 :], word[: i + 1] + word[i:]}
    found.add(word[:i] + word[i + 1 : i + 2] + word[i : i + 1] + word[i + 2 :])
  return sorted(found - {word, ""})


TYPOS = [
  (path.rpartition(".")[0], wrong, path)
  for path in KEYS
  for wrong in mutations(path.rpartition(".")[2])
  if wrong not in schema.sections()[path.rpartition(".")[0]]
]


def check_typo(error, section, wrong, path):
  typo = f"{section}.{wrong}" if section else wrong
  assert f"There is no key '{typo}'. Did you mean " in str(error), (path, str(error))
  assert f"'{path}'" in str(error), (path, str(error))


def test_there_are_misspellings_of_every_key():
  assert len(TYPOS) > 500
  assert {path for _, _, path in TYPOS} == set(KEYS)


@pytest.mark.parametrize("path", KEYS)
def test_every_misspelt_override_is_an_error_that_names_key_and_near_match(path):
  for section, wrong, right in TYPOS:
    if right == path:
      with pytest.raises(errors.ConfigError) as caught:
        config_file.override(load.default_config(), f"{section}.{wrong}".lstrip("."), "1")
      check_typo(caught.value, section, wrong, path)


@pytest.mark.parametrize("how", ["assign", "update", "read"])
def test_every_misspelt_key_in_a_config_file_is_named_with_file_line_and_near_match(tmp_path, how):
  path = stand_ins.write(
    tmp_path,
    """
      import paligemma_jax as pj

      def get_config(how: str = "", section: str = "", key: str = ""):
        c = pj.default_config()
        part = c[section] if section else c
        if how == "assign":
          setattr(part, key, 1)  # line 8
        elif how == "update":
          part.update({key: 1})  # line 10
        else:
          getattr(part, key)  # line 12
        return c
  """,
  )
  line = {"assign": 8, "update": 10, "read": 12}[how]
  for section, wrong, right in TYPOS:
    with pytest.raises(errors.ConfigError) as caught:
      load.load(f"{path}:how={how},section={section},key={wrong}")
    assert str(caught.value).startswith(f"{path}:{line}: ")
    check_typo(caught.value, section, wrong, right)


def test_every_misspelt_key_in_a_saved_configuration_is_named(tmp_path):
  for section, wrong, right in TYPOS:
    with pytest.raises(errors.ConfigError) as caught:
      load.from_plain({section: {wrong: 1}} if section else {wrong: 1}, "config.json")
    check_typo(caught.value, section, wrong, right)


@pytest.mark.parametrize("section", [s for s in schema.sections() if s])
def test_every_misspelt_section_is_named(section):
  for wrong in mutations(section):
    with pytest.raises(errors.ConfigError, match=f"'{wrong}'.*'{section}'"):
      config_file.override(load.default_config(), f"{wrong}.x", "1")


def test_a_key_in_the_wrong_section_is_found_in_the_right_one():
  with pytest.raises(errors.ConfigError, match=r"'train\.lr'. Did you mean 'optim\.lr'"):
    config_file.override(load.default_config(), "train.lr", "1")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("optim.learning_rate", "optim.lr"), ("learning_rate", "optim.lr"),
        ("optim.learningrate", "optim.lr"), ("train.num_epochs", "train.total"),
        ("optim.weight_decay", "optim.wd"), ("model.resolution", "model.res"),
    ],
)  # fmt: skip
def test_the_name_that_other_libraries_give_a_key_is_understood(written, meant):
  with pytest.raises(errors.ConfigError, match=f"'{written}'. Did you mean '{meant}'"):
    config_file.override(load.default_config(), written, "1")


def test_all_names_of_other_libraries_mean_a_key_that_exists():
  assert set(schema._ELSEWHERE.values()) <= set(KEYS)
