"""Configurations: the schema, files and their arguments, overrides, JSON, changes."""

import json
import os
import subprocess
import sys

import pytest

from paligemma_jax.config import load
from paligemma_jax.config import schema
from paligemma_jax.core import errors
from paligemma_jax.core import spec
from tests.core import stand_ins

KEYS = schema.flat()


def test_every_key_has_a_meaning_and_a_default_that_is_legal():
  for path, key in KEYS.items():
    assert key.text.endswith("."), path
  load.validate(load.default_config(), training=False)


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
  c = load.load(stand_ins.write(tmp_path, GOOD) + ":res=448, lr=3e-5,tune=lora,frozen")
  assert (c.model.res, c.optim.lr, c.init, c.train.shuffle) == (448, 3e-5, "lora", False)
  assert type(c.optim.lr) is float
  c = load.load(stand_ins.write(tmp_path, GOOD) + ":frozen=False")
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
    load.load(f"{stand_ins.write(tmp_path, GOOD)}:{arguments}")


def test_a_misspelt_keyword_is_named_when_called_from_python():
  @load.sweepable
  def get_config(res: int = 224):
    return res

  assert get_config(res=1) == 1
  with pytest.raises(errors.ConfigError, match=r"'rez'.*'res'"):
    get_config(rez=1)


def test_arguments_that_cannot_be_set_after_a_colon_are_refused_at_once():
  with pytest.raises(errors.ConfigError, match="argument 'res' of _needs_default needs a default"):
    load.sweepable(_needs_default)
  with pytest.raises(errors.ConfigError, match="must be a bool, int, float or str"):
    load.sweepable(_takes_tuple)


def _needs_default(res):
  return res


def _takes_tuple(sizes=(1, 2)):
  return sizes


def test_a_missing_file_is_named_with_the_files_that_are_near(tmp_path, monkeypatch):
  stand_ins.write(tmp_path, GOOD, "vqav2.py")
  with pytest.raises(errors.ConfigError, match=r"no config file .*vqa2\.py'\. Did .*vqav2\.py'"):
    load.load(str(tmp_path / "vqa2.py"))
  monkeypatch.chdir(tmp_path)
  with pytest.raises(errors.ConfigError, match=r"no config file 'vqa2'\. Did .* or 'vqav2\.py'"):
    load.load("vqa2:res=3")


def test_a_page_of_ours_is_found_from_any_folder_but_a_file_there_comes_first(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  for name in ("okvqa", "okvqa.py", "transfers/okvqa.py"):
    assert load.load(f"{name}:res=448").model.res == 448
  with pytest.raises(errors.ConfigError, match=r"'transfers/okvqqa\.py'\. Did .*/okvqa\.py'"):
    load.load("transfers/okvqqa.py")
  with pytest.raises(errors.ConfigError, match="no config file 'elsewhere/okvqa'"):
    load.load("elsewhere/okvqa")
  stand_ins.write(tmp_path, GOOD, "okvqa.py")
  for name in ("okvqa", "okvqa.py"):
    assert load.load(f"{name}:tune=mine").init == "mine"


def test_a_configuration_from_python_is_copied_and_overridden():
  config = load.default_config()
  changed = load.overridden(config, ["optim.lr=0.5", ("seed", "3")])
  assert (changed.optim.lr, changed.seed) == (0.5, 3)
  assert config.seed == 0 and config.optim.lr != 0.5
  with pytest.raises(errors.ConfigError, match=r"optim\.lrr.*Did you mean"):
    load.overridden(config, ["optim.lrr=1"])
  with pytest.raises(errors.ConfigError, match="not dict"):
    load.overridden({"seed": 1})


@pytest.mark.parametrize(
  "body, message",
  [
    ("def get_config(:\n  pass", r"conf\.py:1: "),
    ("import nonesuch_module", r"conf\.py:1: ModuleNotFoundError: .*nonesuch_module"),
    ("x = 3", "has no function get_config"),
    ("def get_config():\n  return 3", "get_config returned int"),
    ("def get_config():\n  y = 3\n  return x", r"conf\.py:3: NameError"),
    ("rows = 1\nprint(rwos)", r"conf\.py:2: NameError: .*\. Did you mean 'rows'"),
    ("from paligemma_jax import pp\npp.Resiz(28)", r":2: .*'Resiz'\. Did you mean 'Resize'"),
    ("from paligemma_jax.pp import Decod", r":1: ImportError: .*Did you mean 'Decode'"),
    ("import paligemma_jax as pj\npj.default_confg()", r":2: .*Did you mean 'default_config'"),
  ],
)
def test_an_error_in_the_file_is_one_sentence_with_its_line(tmp_path, body, message):
  with pytest.raises(errors.ConfigError, match=message):
    load.load(stand_ins.write(tmp_path, body))


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
    load.load(stand_ins.write(tmp_path, body))


def test_the_line_is_that_of_the_users_file_also_below_a_helper(tmp_path):
  body = """
      from paligemma_jax import presets
      import paligemma_jax as pj

      def get_config(tune: str = "full_adm"):
        c = pj.default_config()
        presets.apply(c, tune)
        return c
  """
  with pytest.raises(errors.ConfigError, match=r"conf\.py:7: Unknown preset 'full_adm'.*full_adam"):
    load.load(stand_ins.write(tmp_path, body))


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
  c = load.load(stand_ins.write(tmp_path, body, "own_ops_conf.py"))
  load.save(c, tmp_path / "config.json")
  assert load.read(tmp_path / "config.json").train.pp[0].a == 2
  sys.modules.pop("own_ops_conf")
  assert load.read(tmp_path / "config.json", allow_code=True).train.pp[0].a == 2


@pytest.mark.parametrize(
    "where, value",
    [
        ("source", {"__spec__": "runs.sent:X"}),
        ("pp", [{"__spec__": "paligemma_jax.pp.decode:Decode"}, {"__spec__": "runs.sent:X"}]),
        ("source", {"__spec__": "paligemma_jax.sources.mixture:Mixture",
                    "parts": [[{"__spec__": "runs.sent:X"}, 1]]}),
    ],
)  # fmt: skip
def test_a_saved_configuration_makes_no_code_run_without_consent(
  where, value, tmp_path, monkeypatch
):
  monkeypatch.syspath_prepend(tmp_path)
  code = "import pathlib; pathlib.Path(__file__).with_name('ran').touch(); X = 1"
  (tmp_path / "runs").mkdir()
  (tmp_path / "runs" / "sent.py").write_text(code)
  path = tmp_path / "runs" / "config.json"
  path.write_text(json.dumps({"train": {where: value}}))
  with pytest.raises(errors.ConfigError, match=r"json: 'runs.sent:X' is code.*--allow_code"):
    load.load(str(path))
  assert not (tmp_path / "runs" / "ran").exists()
  with pytest.raises(errors.ConfigError, match=r"'runs.sent:X' is not a spec"):
    load.load(str(path), allow_code=True)
  assert (tmp_path / "runs" / "ran").exists()  # So the first half could have failed.
  default = load.load(str(path), unused=(f"train.{where}",)).train[where]
  assert default == load.default_config().train[where]
  sys.modules.pop("runs.sent")
  sys.modules.pop("runs")


def test_specs_that_are_gone_can_still_be_compared(tmp_path):
  c = load.default_config()
  before = {**c.to_dict(), "evals": [{"__spec__": "gone.module:Own", "name": "a"}]}
  (tmp_path / "config.json").write_text(json.dumps(spec.to_json(before)))
  old = load.read(tmp_path / "config.json", keep_unknown=True)
  (change,) = [logged for sentences in load.changes(old, c).values() for logged in sentences]
  assert change == "evals[0]: Own(name='a') is gone"


def test_loading_needs_no_jax_and_a_quarter_of_a_second(tmp_path):
  code = (
    "import sys, time; t = time.perf_counter()\n"
    "from paligemma_jax.config import load as config\n"
    f"c = config.load({stand_ins.write(tmp_path, GOOD)!r}); config.validate(c, training=False)\n"
    "assert not {'jax', 'tensorflow', 'flax', 'numpy'} & set(sys.modules), 'heavy imports'\n"
    "print(time.process_time())"
  )
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert float(out.stdout) < 1.0  # CPU seconds from the start of Python; 0.2 on an idle machine.


def test_load_applies_overrides_in_order_as_text_or_pairs(tmp_path):
  path = stand_ins.write(tmp_path, GOOD)
  assert load.load(path, ["seed=1", ("seed", "2"), "optim.lr=1e-3"]).seed == 2
  with pytest.raises(errors.ConfigError, match="write 'key=value'"):
    load.load(path, ["seed"])


# JSON, changes.


def test_a_saved_configuration_reads_back_equal(tmp_path):
  c = stand_ins.full_config()
  load.save(c, tmp_path / "config.json")
  back = load.read(tmp_path / "config.json")
  assert back.to_dict() == c.to_dict()
  assert not any(load.changes(c, back).values())
  assert load.load(str(tmp_path / "config.json"), ["seed=5"]).seed == 5
  assert os.listdir(tmp_path) == ["config.json"]  # No temporary file is left.


def test_a_failed_save_leaves_the_file_before_and_nothing_else(tmp_path, monkeypatch):
  load.save(load.default_config(), tmp_path / "config.json")
  before = (tmp_path / "config.json").read_bytes()

  def full_disk(fd):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", full_disk)
  with pytest.raises(OSError, match="No space"):
    load.save(stand_ins.full_config(), tmp_path / "config.json")
  assert (tmp_path / "config.json").read_bytes() == before
  assert os.listdir(tmp_path) == ["config.json"]


def test_a_value_that_json_cannot_hold_is_named(tmp_path):
  c = load.default_config()
  c.train.source = object()
  with pytest.raises(errors.ConfigError, match="object"):
    load.save(c, tmp_path / "config.json")


def test_an_older_file_without_a_key_gets_the_default(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps({"optim": {"lr": 2}}))
  assert load.read(tmp_path / "config.json").optim.lr == 2.0
  assert load.read(tmp_path / "config.json").optim.b1 == 0.9


@pytest.mark.parametrize(
  "text, message",
  [
    ("{", "is not a saved configuration"),
    ("[1]", "expected a JSON object"),
    ('{"optim": 3}', "'optim' is a section"),
    ('{"seed": "x"}', "seed: "),
    ('{"train": {"source": {"__spec__": "os:system"}}}', "not a spec"),
  ],
)
def test_a_damaged_saved_configuration_is_a_config_error(tmp_path, text, message):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(errors.ConfigError, match=message):
    load.load(str(tmp_path / "config.json"))


@pytest.mark.parametrize(
  "key, value, policy",
  [
    ("seed", 1, "refuse"),
    ("model.variant", "paligemma_3b", "refuse"),
    ("init", "x", "refuse"),
    ("train.batch_size", 64, "refuse"),
    ("train.source", stand_ins.Rows(("a",)), "data"),
    ("train.pp", (), "data"),
    ("tokenizer", "x", "moved"),
    ("train.total", "9 epochs", "warn"),
    ("optim.name", "sgd", "refuse"),
    ("optim.freeze", (), "refuse"),
    ("optim.lr", 1.0, "warn"),
    ("optim.wd", 1.0, "warn"),
    ("ckpt.keep", 5, "allow"),
    ("log.every", "1 step", "allow"),
    ("evals", (), "allow"),
    ("mesh.shape", (), "allow"),
    ("model.overrides", {}, "refuse"),
  ],
)
def test_a_change_between_save_and_resume_is_sorted_by_what_it_does(key, value, policy):
  changed = stand_ins.full_config()
  section, _, name = key.rpartition(".")
  (changed[section] if section else changed)[name] = value
  found = load.changes(stand_ins.full_config(), changed)
  assert [policy for policy, lines in found.items() if lines] == [policy]
  assert found[policy][0].startswith(key)
