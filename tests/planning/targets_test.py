"""Names of devices."""

import pytest

from paligemma_jax.core import errors
from paligemma_jax.planning import targets


@pytest.mark.parametrize(
  "name, chips, topology",
  [
    ("v5e-1", 1, "v5e:1x1"),
    ("v5e-4", 4, "v5e:2x2"),
    ("v5e-8", 8, "v5e:2x4"),
    ("v5e-256", 256, "v5e:16x16"),
    ("v5p-8", 4, "v5p:2x2x1"),
    ("v5p-16", 8, "v5p:2x2x2"),
    ("v6e-8", 8, "v6e:2x4"),
    ("h100", 1, "h100"),
    ("H100-80G", 1, "h100"),
    ("l4x4", 4, "l4"),
    ("a100-40", 1, "a100-40"),
    ("v5e-16x2", 32, "v5e:4x4"),
    ("h100x16", 16, "h100"),
  ],
)
def test_a_name_says_chips_and_topology(name, chips, topology):
  target = targets.get(name)
  assert (target.num_chips, target.topology) == (chips, topology)
  assert target.memory_bytes > 2**30 and target.flops_per_sec > 0


@pytest.mark.parametrize(
  "name, asked, hosts",
  [
    ("v5e-1", 0, 1),
    ("v5e-8", 0, 1),
    ("v5e-8", 2, 2),
    ("v5e-16", 0, 4),
    ("v5e-16", 2, 2),
    ("v5e-32", 0, 8),
    ("v5e-32", 4, 4),
    ("v5e-16x2", 0, 8),
    ("v5e-8x2", 0, 2),
    ("v5p-8", 0, 1),
    ("v5p-16", 0, 2),
    ("h100x8", 0, 1),
    ("h100x16", 0, 2),
    ("l4x4", 4, 4),
  ],
)
def test_the_chips_are_spread_over_hosts(name, asked, hosts):
  assert targets.get(name, asked).num_hosts == hosts


@pytest.mark.parametrize(
  "name, hosts, message",
  [
    ("v5e-16", 3, "v5e-16 has 16 chips; hosts of v5e have 8 or 4 or 1 each"),
    ("v5p-16", 1, "hosts of v5p have 4 each"),
    ("v5e-16x0", 0, "powers of two"),
    ("h100x8", 3, "8 cards do not divide over 3 hosts"),
    ("h100x9", 0, "9 cards do not divide over 2 hosts; use another number of cards, or --hosts"),
    ("h100x0", 0, "0 cards"),
    ("local", 2, "JAX counts the hosts"),
  ],
)
def test_a_number_of_hosts_that_cannot_be_is_an_error(name, hosts, message):
  with pytest.raises(errors.ConfigError, match=message):
    targets.get(name, hosts)


@pytest.mark.parametrize(
  "name, message",
  [
    ("v5e", "Did you mean 'v5e-"),
    ("v5e-3", "powers of two"),
    ("v5p-4", "from v5p-8 on"),
    ("h10", "Did you mean 'h100"),
    ("tpu", "v5e, v5p, v6e"),
  ],
)
def test_a_name_that_means_nothing_is_an_error(name, message):
  with pytest.raises(errors.ConfigError, match=message):
    targets.get(name)


def test_a_card_is_described_to_the_compiler_by_its_facts():
  text = targets.gpu_description("l4")
  assert "major: 8 minor: 9" in text and "core_count: 58" in text
  assert text.count("{") == text.count("}")


@pytest.mark.parametrize(
  "name, kind",
  [
    ("h200", "NVIDIA H200"),
    ("h100", "NVIDIA H100 80GB HBM3"),
    ("l4", "NVIDIA L4"),
    ("v5e-8", "TPU v5 lite"),
    ("v5p-8", "TPU v5"),
    ("v6e-8", "TPU v6 lite"),
  ],
)
def test_the_peak_of_a_device_is_found_by_the_name_that_jax_has_for_it(name, kind):
  assert targets.bfloat16_peak(kind) == targets.get(name).flops_per_sec


@pytest.mark.parametrize("kind", ["cpu", "Tesla T4", "NVIDIA Z9"])
def test_a_device_without_bfloat16_units_or_data_sheet_has_no_peak(kind):
  assert targets.bfloat16_peak(kind) is None
