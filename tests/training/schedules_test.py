"""Learning-rate schedules against the reference's, and the errors around them."""

import json

import numpy as np
import pytest

from paligemma_jax.core import errors
from paligemma_jax.training import optimizers
from tests import golden_files
from tests.training.optim_section import optim


def _values(total_steps=100, num=101, **changes):
  schedule = optimizers.make_schedule(optim(**changes), total_steps, batch_size=8, num_examples=80)
  return np.array([schedule(step) for step in range(num)])


@pytest.mark.parametrize(
  "name, scale, changes",
  [
    ("cosine_wp05", 1.0, dict(schedule="cosine", warmup="5%")),
    ("cosine_ws10_base.03", 0.03, dict(schedule="cosine", warmup="10 steps")),
    ("cosine_scalebs", 0.25, dict(schedule="cosine", warmup="")),
    ("linear_we1", 1.0, dict(schedule="linear", warmup="1 epoch", schedule_end=0.1)),
    (
      "rsqrt",
      1.0,
      dict(schedule="rsqrt", warmup="5 steps", cooldown="20 steps", rsqrt_timescale=20),
    ),
  ],
)
def test_schedules_are_the_references(name, scale, changes):
  golden = json.loads(golden_files.path("bv/schedules.json").read_text())[name]
  np.testing.assert_allclose(scale * _values(**changes), golden["values"], rtol=3e-6, atol=3e-7)


def test_the_first_update_has_learning_rate_zero_under_warmup():
  assert _values(warmup="5%")[0] == 0.0


def test_schedule_start_1_never_has_a_multiplier_of_zero():
  values = _values(num=100, warmup="5%", schedule_start=1)
  assert values.min() > 0.0
  assert values.max() == 1.0


def test_constant_stays_at_one_after_the_warmup():
  assert (_values(schedule="constant", warmup="5%")[5:] == 1.0).all()


def test_a_warmup_longer_than_the_run_is_named():
  with pytest.raises(errors.ConfigError, match=r"optim.warmup='200 steps' is 200 steps.*100 steps"):
    _values(warmup="200 steps")


def test_an_unknown_schedule_names_the_near_one():
  section = optim()
  section.schedule = "cosin"
  with pytest.raises(errors.ConfigError, match="cosine"):
    optimizers.make_schedule(section, 10, batch_size=1)
