"""Configurations: the schema, files and their arguments, overrides, JSON, changes."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma_jax.core import config
from paligemma_jax.core import errors
from paligemma_jax.core import schema
from paligemma_jax.core import typed_text
from tests.core import stand_ins

KEYS = schema.flat()


def mutations(word):
  """Each way to drop, double or swap a letter, without the word itself."""
  found = set()
  for i in range(len(word)):
    found |= {word[:i] + word[i + 1 :], word[: i + 1] + word[i:]}
    found.add(word[:i] + word[i + 1 : i + 2] + word[i : i + 1] + word[i + 2 :])
  return sorted(found - {word, ""})


def write(folder, body, name="conf.py"):
  path = folder / name
  path.write_text(textwrap.dedent(body), encoding="utf-8")
  return str(path)



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
        typed_text.override(config.default_config(), f"{section}.{wrong}".lstrip("."), "1")
      check_typo(caught.value, section, wrong, path)


@pytest.mark.parametrize("how", ["assign", "update", "read"])
def test_every_misspelt_key_in_a_config_file_is_named_with_file_line_and_near_match(tmp_path, how):
  path = write(tmp_path, """
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
  """)
  line = {"assign": 8, "update": 10, "read": 12}[how]
  for section, wrong, right in TYPOS:
    with pytest.raises(errors.ConfigError) as caught:
      config.load(f"{path}:how={how},section={section},key={wrong}")
    assert str(caught.value).startswith(f"{path}:{line}: ")
    check_typo(caught.value, section, wrong, right)


def test_every_misspelt_key_in_a_saved_configuration_is_named(tmp_path):
  for section, wrong, right in TYPOS:
    with pytest.raises(errors.ConfigError) as caught:
      config.from_plain({section: {wrong: 1}} if section else {wrong: 1}, "config.json")
    check_typo(caught.value, section, wrong, right)


@pytest.mark.parametrize("section", [s for s in schema.sections() if s])
def test_every_misspelt_section_is_named(section):
  for wrong in mutations(section):
    with pytest.raises(errors.ConfigError, match=f"'{wrong}'.*'{section}'"):
      typed_text.override(config.default_config(), f"{wrong}.x", "1")


def test_a_key_in_the_wrong_section_is_found_in_the_right_one():
  with pytest.raises(errors.ConfigError, match=r"'train\.lr'. Did you mean 'optim\.lr'"):
    typed_text.override(config.default_config(), "train.lr", "1")


def test_every_key_has_a_meaning_and_a_default_that_is_legal():
  for path, key in KEYS.items():
    assert key.text.endswith("."), path
  config.validate(config.default_config(), training=False)


# Files and their arguments.

GOOD = """
    import paligemma_jax as pj

    @pj.sweepable
    def get_config(res: int = 224, lr: float = 1, tune: str = "full", frozen: bool = False):
      c = pj.default_config()
      c.model.res = res
      c.optim.lr = lr
      c.init = tune
      c.train.shuffle = not frozen
      return c
"""


def test_arguments_are_read_by_the_types_of_the_function(tmp_path):
  c = config.load(write(tmp_path, GOOD) + ":res=448, lr=3e-5,tune=lora,frozen")
  assert (c.model.res, c.optim.lr, c.init, c.train.shuffle) == (448, 3e-5, "lora", False)
  assert type(c.optim.lr) is float
  c = config.load(write(tmp_path, GOOD) + ":frozen=False")
  assert c.model.res == 224
  assert c.train.shuffle


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("rez=448", r"no argument 'rez'. Did you mean 'res'"),
        ("res=4.5", "res: '4.5' is not a whole number"),
        ("lr=fast", "lr: 'fast' is not a number"),
        ("lr=nan", "lr: 'nan' is not a finite number"),
        ("frozen=maybe", "frozen: 'maybe' is not true or false"),
        ("res", "argument 'res' needs a value"),
        ("res=1,res=2", "argument 'res' is given twice"),
    ],
)
def test_a_wrong_argument_is_one_clear_sentence(tmp_path, arguments, message):
  with pytest.raises(errors.ConfigError, match=message):
    config.load(f"{write(tmp_path, GOOD)}:{arguments}")


def test_a_misspelt_keyword_is_named_when_called_from_python():
  @config.sweepable
  def get_config(res: int = 224):
    return res

  assert get_config(res=1) == 1
  with pytest.raises(errors.ConfigError, match=r"'rez'.*'res'"):
    get_config(rez=1)


def test_arguments_that_cannot_be_set_after_a_colon_are_refused_at_once():
  with pytest.raises(errors.ConfigError, match="argument 'res' of _needs_default needs a default"):
    config.sweepable(_needs_default)
  with pytest.raises(errors.ConfigError, match="must be a bool, int, float or str"):
    config.sweepable(_takes_tuple)


def _needs_default(res):
  return res


def _takes_tuple(sizes=(1, 2)):
  return sizes


_VALUES = {
    bool: st.booleans(),
    int: st.integers(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(st.characters(exclude_characters=",=", categories=["L", "N", "P", "S"])),
}


@given(st.data())
def test_any_typed_arguments_are_read_back_as_they_were(data):
  kinds = data.draw(st.dictionaries(st.from_regex(r"[a-z]\w{0,5}", fullmatch=True),
                                    st.sampled_from(list(_VALUES)), max_size=4))
  values = {name: data.draw(_VALUES[kind]) for name, kind in kinds.items()}
  text = ",".join(f"{name}={value}" for name, value in values.items())
  assert typed_text.arguments(text, kinds, "f") == values


@given(st.text(max_size=20))
def test_any_text_after_the_colon_is_arguments_or_a_config_error(text):
  kinds = {"res": int, "lr": float, "on": bool, "tune": str}
  try:
    values = typed_text.arguments(text, kinds, "conf.py")
  except errors.ConfigError as e:
    assert "conf.py" in str(e)
  else:
    assert all(type(value) is kinds[name] for name, value in values.items())


def test_a_missing_file_is_named_with_the_files_that_are_near(tmp_path, monkeypatch):
  write(tmp_path, GOOD, "vqav2.py")
  with pytest.raises(errors.ConfigError, match=r"no config file .*vqa2\.py'\. Did .*vqav2\.py'"):
    config.load(str(tmp_path / "vqa2.py"))
  monkeypatch.chdir(tmp_path)
  with pytest.raises(errors.ConfigError, match=r"no config file 'vqa2'\. Did you mean 'vqav2\.py'"):
    config.load("vqa2:res=3")


@pytest.mark.parametrize(
    "body, message",
    [
        ("def get_config(:\n  pass", r"conf\.py:1: "),
        ("import nonesuch_module", r"conf\.py:1: ModuleNotFoundError: .*nonesuch_module"),
        ("x = 3", "has no function get_config"),
        ("def get_config():\n  return 3", "get_config returned int"),
        ("def get_config():\n  y = 3\n  return x", r"conf\.py:3: NameError"),
    ],
)
def test_an_error_in_the_file_is_one_sentence_with_its_line(tmp_path, body, message):
  with pytest.raises(errors.ConfigError, match=message):
    config.load(write(tmp_path, body))


@pytest.mark.parametrize(
    "line, message",
    [
        ("c.optim.lr = 'fast'", r"conf\.py:6: optim\.lr must be of type float, but fast is str"),
        ("c.train.update(batch_size=1.5)", r":6: train\.batch_size must be of type int"),
        ("c.optim = 3", r":6: optim must be a section"),
        ("pj.spec(type('T', (), {}))(typo=1)", r"conf\.py:6: .*T has no field 'typo'"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(tmp_path, line, message):
  body = f"""
      import paligemma_jax as pj

      def get_config():
        c = pj.default_config()
        {line}
        return c
  """
  with pytest.raises(errors.ConfigError, match=message):
    config.load(write(tmp_path, body))


def test_the_line_is_that_of_the_users_file_also_below_a_helper(tmp_path):
  body = """
      from configs import presets
      import paligemma_jax as pj

      def get_config(tune: str = "full_adm"):
        c = pj.default_config()
        presets.apply(c, tune)
        return c
  """
  with pytest.raises(errors.ConfigError, match=r"conf\.py:7: Unknown preset 'full_adm'.*full_adam"):
    config.load(write(tmp_path, body))


def test_a_spec_declared_in_a_config_file_is_found_again_by_its_name(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(tmp_path)
  body = """
      import paligemma_jax as pj

      @pj.spec
      class Own:
        a: int = 1

      def get_config():
        c = pj.default_config()
        c.train.pp = (Own(2),)
        return c
  """
  c = config.load(write(tmp_path, body, "own_ops_conf.py"))
  config.save(c, tmp_path / "config.json")
  assert config.read(tmp_path / "config.json").train.pp[0].a == 2
  sys.modules.pop("own_ops_conf")
  assert config.read(tmp_path / "config.json").train.pp[0].a == 2


def test_loading_needs_no_jax_and_a_quarter_of_a_second(tmp_path):
  code = (
      "import sys, time; t = time.perf_counter()\n"
      "from paligemma_jax.core import config\n"
      f"c = config.load({write(tmp_path, GOOD)!r}); config.validate(c, training=False)\n"
      "assert not {'jax', 'tensorflow', 'flax', 'numpy'} & set(sys.modules), 'heavy imports'\n"
      "print(time.process_time())"
  )
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert float(out.stdout) < 1.0  # CPU seconds from the start of Python; 0.2 on an idle machine.


# Overrides.

@pytest.mark.parametrize(
    "override, expected",
    [
        ("optim.lr=3e-5", 3e-5), ("optim.lr=1", 1.0), ("seed=7", 7), ("train.shuffle=false", False),
        ("train.total=15 epochs", "15 epochs"), ("init=a=b", "a=b"), ("init=", ""),
        ("optim.freeze=('img/.*',)", ("img/.*",)), ("train.buckets=[32, 64]", (32, 64)),
        ("optim.lr_mults=[['img/.*', 0.1]]", (("img/.*", 0.1),)), ("optim.freeze=()", ()),
        ("mesh.shape=(('data', 2), ('fsdp', -1))", (("data", 2), ("fsdp", -1))),
        ("train.source.path=b.jsonl", "b.jsonl"), ("evals.0.limit=100", 100),
        ("evals.0.source.names=('a',)", ("a",)),
    ],
)
def test_an_override_has_the_type_of_the_present_value(tmp_path, override, expected):
  c = full_config()
  path, _, text = override.partition("=")
  typed_text.override(c, path, text)
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
    typed_text.override(full_config(), path, text)


def test_sizes_of_the_model_are_overridden_one_by_one_or_together():
  c = config.default_config()
  typed_text.override(c, "model.overrides.llm.depth", "2")
  typed_text.override(c, "model.overrides.llm.width", "64")
  assert c.model.overrides.to_dict() == {"llm": {"depth": 2, "width": 64}}
  typed_text.override(c, "model.overrides", "{'img': {'depth': 1}}")
  assert c.model.overrides.to_dict() == {"img": {"depth": 1}}


def test_load_applies_overrides_in_order_as_text_or_pairs(tmp_path):
  path = write(tmp_path, GOOD)
  assert config.load(path, ["seed=1", ("seed", "2"), "optim.lr=1e-3"]).seed == 2
  with pytest.raises(errors.ConfigError, match="write 'key=value'"):
    config.load(path, ["seed"])


# JSON, fingerprints, changes.

def full_config():
  c = config.default_config()
  c.train.update(source=stand_ins.Rows(), pp=stand_ins.OPS, total="3 epochs", batch_size=8)
  c.optim.update(lr=1e-5, freeze=("img/.*",), lr_mults=(("llm/.*", 0.1),))
  c.model.overrides = {"llm": {"depth": 2}}
  c.mesh.shape = (("fsdp", -1),)
  c.evals = (stand_ins.Judge("val/acc", stand_ins.Rows(), stand_ins.OPS, every="10%"),)
  return c


def test_a_saved_configuration_reads_back_equal(tmp_path):
  c = full_config()
  config.save(c, tmp_path / "config.json")
  back = config.read(tmp_path / "config.json")
  assert back.to_dict() == c.to_dict()
  assert config.fingerprint(back) == config.fingerprint(c)
  assert config.changes(c, back) == {"refuse": [], "warn": [], "allow": []}
  assert config.load(str(tmp_path / "config.json"), ["seed=5"]).seed == 5
  assert os.listdir(tmp_path) == ["config.json"]  # No temporary file is left.


def test_a_failed_save_leaves_the_file_before_and_nothing_else(tmp_path, monkeypatch):
  config.save(config.default_config(), tmp_path / "config.json")
  before = (tmp_path / "config.json").read_bytes()

  def full_disk(fd):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", full_disk)
  with pytest.raises(OSError, match="No space"):
    config.save(full_config(), tmp_path / "config.json")
  assert (tmp_path / "config.json").read_bytes() == before
  assert os.listdir(tmp_path) == ["config.json"]


def test_a_value_that_json_cannot_hold_is_named():
  c = config.default_config()
  c.train.source = object()
  with pytest.raises(errors.ConfigError, match="object"):
    config.fingerprint(c)


def test_an_older_file_without_a_key_gets_the_default(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps({"optim": {"lr": 2}}))
  assert config.read(tmp_path / "config.json").optim.lr == 2.0
  assert config.read(tmp_path / "config.json").optim.b1 == 0.9


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "is not a saved configuration"), ("[1]", "no JSON object"),
        ('{"optim": 3}', "'optim' is a section"), ('{"seed": "x"}', "seed: "),
        ('{"train": {"source": {"__spec__": "os:system"}}}', "not a spec"),
    ],
)
def test_a_damaged_saved_configuration_is_a_config_error(tmp_path, text, message):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(errors.ConfigError, match=message):
    config.load(str(tmp_path / "config.json"))


def test_the_fingerprint_depends_on_values_and_not_on_their_order():
  assert config.fingerprint({"a": 1, "b": (1, 2)}) == config.fingerprint({"b": [1, 2], "a": 1})
  assert config.fingerprint({"a": 1}) != config.fingerprint({"a": 2})
  assert config.fingerprint(stand_ins.RESIZE) != config.fingerprint(stand_ins.FORMAT)


@pytest.mark.parametrize(
    "key, value, policy",
    [
        ("seed", 1, "refuse"), ("model.variant", "paligemma_3b", "refuse"), ("init", "x", "refuse"),
        ("train.batch_size", 64, "refuse"), ("train.source", stand_ins.Rows(("a",)), "refuse"),
        ("train.pp", (), "refuse"), ("optim.name", "sgd", "refuse"), ("optim.freeze", (), "refuse"),
        ("optim.lr", 1.0, "warn"), ("optim.wd", 1.0, "warn"), ("ckpt.keep", 5, "allow"),
        ("log.every", "1 step", "allow"), ("evals", (), "allow"), ("mesh.shape", (), "allow"),
        ("model.overrides", {}, "refuse"),
    ],
)
def test_a_change_between_save_and_resume_is_sorted_by_what_it_does(key, value, policy):
  changed = full_config()
  section, _, name = key.rpartition(".")
  (changed[section] if section else changed)[name] = value
  found = config.changes(full_config(), changed)
  assert [policy for policy, lines in found.items() if lines] == [policy]
  assert found[policy][0].startswith(f"{key}: ")
