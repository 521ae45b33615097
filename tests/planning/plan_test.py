"""The command, as a user runs it."""

import importlib.util
import json
import textwrap

import pytest

from paligemma_jax import plan
from paligemma_jax.core import errors
from paligemma_jax.planning import answer
from paligemma_jax.planning import runs
from tests import run_train
from tests.planning import small

_CONFIG = textwrap.dedent('''\
    """The small run of the tests, as a file."""
    from tests.planning import small

    def get_config():
      return small.config()
    ''')


@pytest.fixture
def config(tmp_path):
  path = tmp_path / "run.py"
  path.write_text(_CONFIG)
  return str(path)


def test_json_has_what_programs_read(config, capsys):
  plan.main(["--config", config, "--on", "local", "--json"])
  (line,) = capsys.readouterr().out.splitlines()
  found = json.loads(line)
  assert found["fits"] is True and found["device"] == "local" and found["suggestions"] == []
  assert set(found["bytes"]) == {"arguments", "outputs", "aliased", "temporaries", "total"}
  assert found["flops"] > 10**6 and found["num_devices"] >= 1
  assert "roofline" in found and found["collectives"] == {} == found["cost"]
  text = "\n".join(answer.lines(found, "tiny at 28 px", "plan"))
  assert "fits, 0.0" in text and "parameters" in text


def test_a_device_that_is_unknown_is_one_sentence(config):
  with pytest.raises(errors.ConfigError, match="Did you mean 'v5e-8'"):
    plan.main(["--config", config, "--on", "v5e-88x"])


def test_a_compiler_that_dies_is_an_error_and_not_our_end(monkeypatch):
  monkeypatch.setattr(runs.sys, "executable", "/bin/false")
  with pytest.raises(errors.CompilerError, match="compiler for v5e-8 ended with code 1"):
    runs.ask([{}], "v5e-8", effort=0, timeout_secs=60)


def test_a_compiler_that_crashes_in_haste_is_asked_again_for_the_rest(tmp_path, monkeypatch):
  worker = tmp_path / "worker"
  worker.write_text(
    '#!/bin/sh\n[ -z "$JAX_EXEC_TIME_OPTIMIZATION_EFFORT" ] && echo \'{"second": 2}\' && exit\n'
    "echo '{\"first\": 1}'; kill -SEGV $$\n"
  )
  worker.chmod(0o755)
  monkeypatch.setattr(runs.sys, "executable", str(worker))
  found = runs.ask([{}, {}], "v5e-8", effort=-1.0, timeout_secs=60)
  assert found == [{"first": 1}, {"second": 2}]


def test_a_job_names_no_data():
  job = runs.job(small.config(), "v5e-8")
  text = json.dumps(job)
  assert "InMemory" not in text and "Decode" not in text


def test_times_come_from_the_slowest_of_three_limits():
  found = dict(
    bytes=dict(arguments=800, outputs=100, temporaries=50),
    flops=4000,
    num_devices=2,
    collectives={"all-gather": {"count": 1, "bytes": 30}},
  )
  target = runs.targets.Target(
    "tpu", "x", 2, flops_per_sec=1000.0, memory_bytes_per_sec=1000.0, link_bytes_per_sec=10.0
  )
  roofline = answer._roofline(found, target)
  assert roofline == dict(compute_secs=2.0, memory_secs=1.0, links_secs=3.0, step_secs=3.0)


_NEEDS_LIBTPU = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="needs pip install -r requirements/plan.txt"
)


@_NEEDS_LIBTPU
def test_the_step_compiles_for_tpu_chips_that_are_not_there(config, capsys):
  overrides = ["--config.train.batch_size=8"]
  plan.main(["--config", config, "--on", "v5e-8", "--json", *overrides])
  found = json.loads(capsys.readouterr().out)
  assert found["fits"] and found["num_devices"] == 8 and "v5" in found["device_kind"]
  assert found["memory_bytes"] == round(15.75 * 2**30)
  assert found["num_hosts"] == 1 and found["collectives"] and not found["unread"]
  assert found["cost"]["num_steps"] == 10 and found["cost"]["usd"] > 0
  assert not any(entry["from_hosts"] for entry in found["collectives"].values())


@pytest.mark.slow  # 15 s each
@_NEEDS_LIBTPU
@pytest.mark.parametrize(
  "flags, hosts, chips, slices",
  [
    (["v5e-16"], 4, 4, 1),
    (["v5e-16", "--hosts", "2"], 2, 8, 1),
    (["v5e-32", "--hosts", "4"], 4, 8, 1),
    (["v5e-4x2"], 2, 4, 2),
  ],
  ids=["4_hosts", "2_hosts", "4_hosts_of_8", "2_slices"],
)
def test_what_crosses_hosts_is_listed(flags, hosts, chips, slices, config, capsys):
  plan.main(["--config", config, "--on", *flags, "--json", "--config.train.batch_size=32"])
  found = json.loads(capsys.readouterr().out)
  assert (found["num_hosts"], found["num_slices"]) == (hosts, slices)
  for entry in found["collectives"].values():
    inside = entry["within_host"] + entry["from_hosts"]
    assert inside == pytest.approx(chips * entry["bytes"], rel=1e-6)
  crossing = "from_slices" if slices > 1 else "from_hosts"
  assert any(entry[crossing] for entry in found["collectives"].values())
  lines = answer.lines(found, "tiny", "plan")
  assert any(line.startswith(f"  {hosts} hosts of {chips} chips") for line in lines)
  (row,) = [line for line in lines if line.startswith("    all-gather")]
  assert row.count("GB") == (3 if slices > 1 else 2)


def test_the_page_shows_the_lines_as_they_are_printed():
  def entry(count, one_chip, within_host, from_hosts):
    return dict(
      count=count, bytes=one_chip, within_host=within_host, from_hosts=from_hosts, from_slices=0
    )

  found = dict(num_devices=16, num_hosts=4, num_slices=1, unread="")
  found["collectives"] = {
    "all-gather": entry(627, 3.54e9, 11.3e9, 2.83e9),
    "all-reduce": entry(194, 0.0709e9, 0.227e9, 0.0567e9),
    "collective-permute": entry(20724, 22.9e9, 68.7e9, 22.9e9),
  }
  page = (run_train.ROOT / "docs" / "several_hosts.md").read_text()
  assert "\n".join(answer._communication(found)) in page


@pytest.mark.parametrize(
  "flag",
  [
    "--timeout=nan",
    "--timeout=0",
    "--effort=7",
    "--frames=-1",
    "--tries=-1",
    "--hosts=-1",
    "--price=-1",
    "--price=nan",
    "--mfu=38",
  ],
)
def test_a_number_that_means_nothing_is_a_usage_error_before_anything_is_compiled(
  flag, config, capsys
):
  with pytest.raises(SystemExit) as exit_info:
    plan.main(["--config", config, flag])
  assert exit_info.value.code == 2 and flag.partition("=")[0] in capsys.readouterr().err
