"""What is tried, in which order, when a run does not fit."""

import textwrap

import pytest

from paligemma_jax.config import load as configs
from paligemma_jax.planning import answer

_GIB = 2**30
_LIMIT = 16 * _GIB

_CONFIG = textwrap.dedent('''\
    """A run whose tuning can be chosen."""
    import paligemma_jax as pj

    @pj.sweepable
    def get_config(res: int = 224, tune: str = "full_adam"):
      c = pj.default_config()
      c.train.batch_size = 64
      if tune == "lora":
        c.optim.train_only = ("llm/layers/attn/.*",)
      elif tune != "full_adam":
        raise ValueError(tune)
      return c
    ''')


def _state(parameters, optimizer, gradients):
  parts = dict(parameters=parameters, optimizer=optimizer, batch=0, gradients=gradients)
  parts = {name: round(value * _GIB) for name, value in parts.items()}
  return {"parts": parts, "memory_bytes": _LIMIT, "num_row_shards": 8}


_FULL, _LORA = _state(6, 6, 3), _state(3, 0.5, 0.2)


class Devices:
  """Answers as a compiler would: rows need `rows` GiB, less in micro-batches; remembers."""

  def __init__(self, rows):
    self.rows = rows
    self.compiled = []

  def ask(self, changes, compiled):
    return [self.answer(change, compiled) for change in changes]

  def answer(self, change, compiled):
    config = configs.load(change.path, change.overrides)
    state = _LORA if config.optim.train_only else _FULL
    if not compiled:
      return state
    self.compiled.append(", ".join(change.words))
    share = config.train.batch_size / 64 / config.train.grad_accum_steps
    share *= 0.5 if config.model.remat == "full" else 1
    temporaries = state["parts"]["gradients"] + round(self.rows * share * _GIB)
    arguments = state["parts"]["parameters"] + state["parts"]["optimizer"]
    total = arguments + temporaries
    return {
      **state,
      "bytes": dict(arguments=arguments, temporaries=temporaries, total=total),
      "fits": total <= _LIMIT,
    }


def _search(path, overrides, devices, want=1, tries=6):
  start = answer.Change(str(path), overrides)
  found = devices.answer(start, True)
  assert not found["fits"]
  devices.compiled.clear()
  return answer.search(start, found, devices.ask, want=want, tries=tries, note=lambda text: None)


@pytest.fixture
def config(tmp_path):
  path = tmp_path / "run.py"
  path.write_text(_CONFIG)
  return path


def test_recomputation_comes_first_for_it_changes_no_number(config):
  overrides = (("model.remat", "none"),)
  ((change, _),) = _search(config, overrides, Devices(rows=1.5))
  assert change.words == ("model.remat=full",)
  assert change.flags == ["--config", str(config), "--config.model.remat=full"]


def test_another_way_to_tune_is_named_as_an_argument_of_the_config(config):
  devices = Devices(rows=20)
  ((change, _),) = _search(config, (("model.remat", "full"), ("seed", "7")), devices)
  # Everything but the way to tune is kept.
  assert change.words == ("tune=lora",)
  assert change.path == f"{config}:tune=lora"
  assert change.overrides == (("model.remat", "full"), ("seed", "7"))
  # With 15 of 16 GiB of state and gradients not even one row per device was left to try.
  assert devices.compiled == ["tune=lora"]


def test_micro_batches_are_as_few_as_are_likely_to_do(config):
  devices = Devices(rows=40)
  found = _search(f"{config}:res=448,tune=lora", (("model.remat", "full"),), devices)
  assert [change.words for change, _ in found] == [("train.grad_accum_steps=2",)]
  assert found[0][0].path.endswith(":res=448,tune=lora")


def test_where_micro_batches_do_not_help_the_batch_is_cut(config):
  devices = Devices(rows=4)
  ((change, _),) = _search(config, (("model.remat", "full"),), devices, want=1)
  assert change.words == ("train.batch_size=16",)
  assert devices.compiled == ["train.batch_size=16"]


def test_no_more_is_compiled_than_allowed(config):
  devices = Devices(rows=1000)
  assert _search(config, (("model.remat", "none"),), devices, tries=1) == []
  assert len(devices.compiled) == 1


def test_a_config_without_tune_gets_keys_instead(tmp_path):
  path = tmp_path / "run.py"
  path.write_text(
    _CONFIG.replace(', tune: str = "full_adam"', "")
    .replace("tune ==", "'' ==")
    .replace("tune !=", "'' ==")
  )
  changes = list(answer._other_bases(answer.Change(str(path), ())))
  assert [c.words[0] for c in changes] == [
    "optim.mu_dtype=bfloat16",
    "optim.freeze=('img/.*',)",
    "optim.name=sgd",
  ]
  for change in changes:
    configs.load(change.path, change.overrides)


def test_a_mesh_that_keeps_parameters_whole_is_given_up(config):
  overrides = (("mesh.shape", "(('data', -1),)"), ("model.remat", "full"))
  change = next(iter(answer._other_bases(answer.Change(str(config), overrides))))
  assert change.words == ("mesh.shape=()",)
  assert configs.load(change.path, change.overrides).mesh.shape == ()


def test_remedies_are_the_changes_in_the_order_of_the_search_where_nothing_is_measured(config):
  def remedies(remat, num_row_shards):
    start = answer.Change(str(config), (("model.remat", remat),))
    return answer.remedies(start, num_row_shards=num_row_shards)

  assert remedies("none", 8) == [
    "--config.model.remat=full",
    "--config.train.grad_accum_steps=2",
    f"--config {config}:tune=lora",
    "--config.train.batch_size=32",
  ]
  # 64 rows in 64 parts leave nothing to cut further.
  assert remedies("full", 64) == [f"--config {config}:tune=lora"]
