"""Text from a command line: typed arguments and overrides, never evaluated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma_jax.config import config_file
from paligemma_jax.config import load
from paligemma_jax.core import errors
from tests.core import stand_ins

_VALUES = {
  bool: st.booleans(),
  int: st.integers(),
  float: st.floats(allow_nan=False, allow_infinity=False),
  str: st.text(st.characters(exclude_characters=",=", categories=["L", "N", "P", "S"])),
}


@given(st.data())
def test_any_typed_arguments_are_read_back_as_they_were(data):
  kinds = data.draw(
    st.dictionaries(
      st.from_regex(r"[a-z]\w{0,5}", fullmatch=True), st.sampled_from(list(_VALUES)), max_size=4
    )
  )
  values = {name: data.draw(_VALUES[kind]) for name, kind in kinds.items()}
  text = ",".join(f"{name}={value}" for name, value in values.items())
  assert config_file.arguments(text, kinds, "f") == values


@given(st.text(max_size=20))
def test_any_text_after_the_colon_is_arguments_or_a_config_error(text):
  kinds = {"res": int, "lr": float, "on": bool, "tune": str}
  try:
    values = config_file.arguments(text, kinds, "conf.py")
  except errors.ConfigError as e:
    assert "conf.py" in str(e)
  else:
    assert all(type(value) is kinds[name] for name, value in values.items())


@pytest.mark.parametrize(
  "override, expected",
  [
    ("optim.lr=3e-5", 3e-5),
    ("optim.lr=1", 1.0),
    ("seed=7", 7),
    ("train.shuffle=false", False),
    ("train.total=15 epochs", "15 epochs"),
    ("init=a=b", "a=b"),
    ("init=", ""),
    ("optim.freeze=('img/.*',)", ("img/.*",)),
    ("train.buckets=[32, 64]", (32, 64)),
    ("optim.lr_mults=[['img/.*', 0.1]]", (("img/.*", 0.1),)),
    ("optim.freeze=()", ()),
    ("mesh.shape=(('data', 2), ('fsdp', -1))", (("data", 2), ("fsdp", -1))),
    ("train.source.path=b.jsonl", "b.jsonl"),
    ("evals.0.limit=100", 100),
    ("evals.0.source.names=('a',)", ("a",)),
    ("evals=()", ()),
    ("evals=none", ()),
    ("log.trackers=wandb", ("wandb",)),
    ("log.trackers=wandb, mlflow", ("wandb", "mlflow")),
    ("log.trackers=('trackio',)", ("trackio",)),
    ("log.trackers=none", ()),
    ("evals=None", ()),
    ("evals=", ()),
  ],
)
def test_an_override_has_the_type_of_the_present_value(tmp_path, override, expected):
  c = stand_ins.full_config()
  path, _, text = override.partition("=")
  config_file.override(c, path, text)
  value = c
  for part in path.split("."):
    value = value[int(part)] if part.isdigit() else getattr(value, part)
  assert value == expected
  assert type(value) is type(expected)


@pytest.mark.parametrize(
  "path, text, message",
  [
    ("optim.lr", "fast", r"optim\.lr: 'fast' is not a number"),
    ("optim.lr", "inf", r"optim\.lr: 'inf' is not a finite number"),
    ("seed", "1.5", "seed: '1.5' is not a whole number"),
    ("train.shuffle", "2", r"train\.shuffle: '2' is not true or false"),
    ("optim.freeze", "img/.*", r"write it as \(\"img/\.\*\",\)"),
    ("optim.freeze", "__import__('os').getcwd()", "is not a Python tuple"),
    ("optim.freeze", "3", "is not a tuple"),
    ("optim", "3", "'optim' is a section.*optim.lr"),
    ("optim.lr.x", "3", r"optim\.lr is .*; it has no parts"),
    ("train.source", "()", r"train\.source holds specs"),
    ("train.source", "x", r"train\.source holds specs"),
    ("train.source.pth", "x", r"train\.source has no field 'pth'. Did you mean 'path'"),
    ("evals.3.limit", "1", r"evals\.3: evals has 1 elements"),
    ("evals.0.limt", "1", r"evals\.0 has no field 'limt'. Did you mean 'limit'"),
    ("", "1", "There is no key ''"),
    (".lr", "1", "There is no key ''"),
  ],
)
def test_an_override_that_cannot_be_is_one_clear_sentence(path, text, message):
  with pytest.raises(errors.ConfigError, match=message):
    config_file.override(stand_ins.full_config(), path, text)


def test_sizes_of_the_model_are_overridden_one_by_one_or_together():
  c = load.default_config()
  config_file.override(c, "model.overrides.llm.depth", "2")
  config_file.override(c, "model.overrides.llm.width", "64")
  assert c.model.overrides.to_dict() == {"llm": {"depth": 2, "width": 64}}
  config_file.override(c, "model.overrides", "{'img': {'depth': 1}}")
  assert c.model.overrides.to_dict() == {"img": {"depth": 1}}
