"""docs/gpu.md: its commands run, on CPU devices; its table is that of the compiled cells."""

import concurrent.futures
import importlib.util
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from paligemma_jax import plan
from paligemma_jax.planning import answer
from paligemma_jax.planning import runs
from paligemma_jax.planning import targets
from paligemma_jax.trainer import devices
from tests import package_test
from tests import run_train
from tests import virtual_devices
from tools import plan_table

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "gpu.md").read_text("utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
(SBATCH,) = [block for block in BLOCKS if block.startswith("#!")]
LINES = [line for block in BLOCKS if block != SBATCH for line in block.splitlines()]
TRAIN = [line for line in LINES if "paligemma_jax.train" in line]

# The page's run, cut to two steps.
_TWO_STEPS, _MORE = "steps=2,batch_size=8", ("--config.evals=none",)


def _short(line, workdir):
  """Config, workdir and flags of a command of the page, for a short run in that folder."""
  words = shlex.split(line.partition("paligemma_jax.train ")[2])
  assert words[0] == "--config" and words[2] == "--workdir"
  return f"{words[1]}:{_TWO_STEPS}", workdir, *words[4:], *_MORE


def test_every_command_is_of_a_kind_that_is_tried_here():
  kinds = ("pip install", "python -c", "python -m", "export ", "JAX_PROCESS_ID=0 python -m")
  assert len(LINES) >= 8 and all(line.startswith(kinds) for line in LINES)


def test_the_extras_are_those_of_the_package():
  extras = package_test.SETUPTOOLS["dynamic"]["optional-dependencies"]
  named = re.findall(r"\[(cuda\d+)\]\"", PAGE) + re.findall(r"^\| `(cuda\d+)` \|", PAGE, re.M)
  assert set(named) == {name for name in extras if name.startswith("cuda")}
  for name in named:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    assert [line for line in lines if line.startswith(f"jax[{name}]>=")], name


def test_the_devices_are_asked_for_as_the_page_does():
  (line,) = [line for line in LINES if line.startswith("python -c")]
  words = shlex.split(line, comments=True)
  done = subprocess.run(
    [sys.executable, *words[1:]],
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=True,
  )
  assert "CpuDevice(id=0)" in done.stdout


def test_more_of_the_memory_is_asked_for_as_plan_does():
  assert devices.larger_share() in LINES


@pytest.mark.parametrize("line", [line for line in LINES if "paligemma_jax.plan" in line])
def test_a_plan_is_of_a_config_and_a_card_that_are_there(line):
  args = plan.parser().parse(shlex.split(line)[3:])
  assert targets.get(args.on).platform == "cuda"
  assert answer.Change(args.config, args.overrides).load().model.quantize


@pytest.mark.parametrize("name", sorted(set(re.findall(r"--on (\w+)", PAGE))))
def test_the_devices_of_the_page_are_known(name):
  assert targets.get(name)


@pytest.mark.slow  # 20 s each: a run on eight CPU devices.
@pytest.mark.parametrize("line", [x for x in TRAIN if "JAX_PROCESS_ID" not in x])
def test_a_run_on_all_devices_of_a_machine(line, tmp_path):
  env = virtual_devices.environment(8)
  done = run_train.run(*_short(line, tmp_path / "w"), **env)
  assert done.returncode == 0, done.stderr[-2000:]
  assert run_train.last_step(tmp_path / "w") == 2


@pytest.mark.slow  # 20 s: two processes.
def test_by_hand_each_host_is_told_its_number(tmp_path):
  (line,) = [x for x in TRAIN if "JAX_PROCESS_ID" in x]
  (export,) = [x for x in LINES if x.startswith("export JAX_")]
  env = dict(word.split("=") for word in shlex.split(export)[1:])
  env["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{run_train.free_port()}"
  flags = _short(line, tmp_path / "w")

  def host(i):
    return run_train.run(*flags, JAX_PROCESS_ID=str(i), JAX_PLATFORMS="cpu", **env)

  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    ended = list(pool.map(host, range(int(env["JAX_NUM_PROCESSES"]))))
  assert [done.returncode for done in ended] == [0, 0], ended[0].stderr[-2000:]
  assert run_train.last_step(tmp_path / "w") == 2


@pytest.mark.slow  # 20 s: two processes.
def test_the_batch_file_starts_a_run_that_finds_its_hosts_by_slurm(tmp_path):
  task = "SLURM_JOB_ID=70000 SLURM_STEP_NODELIST=127.0.0.1 SLURM_NTASKS=2 SLURM_PROCID=$i"
  script = SBATCH.replace("demo.py", f"demo.py:{_TWO_STEPS}")
  done = run_train.run_script(
    script.replace("runs/slurm", str(tmp_path / "w")),
    tmp_path,
    {"srun": run_train.starter(2, f"{task} SLURM_LOCALID=$i")},
    JAX_COORDINATOR_PORT=str(run_train.free_port()),
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert run_train.last_step(tmp_path / "w") == 2


def test_the_batch_file_asks_for_a_task_for_each_card():
  asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", SBATCH, re.MULTILINE))
  assert asked["gpus-per-node"] == asked["ntasks-per-node"] and "gpus-per-task" not in asked
  assert subprocess.run(["bash", "-n", "-c", SBATCH], check=False).returncode == 0


def test_the_table_is_that_of_the_compiled_cells():
  found = plan_table.read()
  cards = {"T4, 16 GB": "t4", "L4, 24 GB": "l4", "A100, 40 GB": "a100-40", "H100, 80 GB": "h100",
           "H200, 141 GB": "h200"}  # fmt: skip
  assert f"|  | {' | '.join(cards)} |" in PAGE
  taken = [0.75 * targets.get(device).memory_bytes / 2**30 for device in cards.values()]
  assert f"| JAX takes | {' | '.join(f'{gib:.1f}' for gib in taken)} |" in PAGE
  for tune in ("full_adam", "adam8bit", "lora", "qlora"):
    cells = [found[f"paligemma_3b 224 {tune} {device}"] for device in cards.values()]
    assert f"| `{tune}` | {' | '.join(map(plan_table._shown, cells))} |" in PAGE


@pytest.mark.skipif(
  importlib.util.find_spec("jax_cuda12_plugin") is None,
  reason="needs pip install -r requirements/plan-cuda.txt",
)
def test_the_flags_of_the_page_are_known():
  flags = re.findall(r"`(--xla\w+=\w+)`", PAGE)
  assert len(flags) >= 4
  env = runs._environment(targets.get("h100"), 0.0)
  code = (
    "from jax.experimental import topologies as t\nfrom paligemma_jax.planning import targets\n"
  )
  code += "t.get_topology_desc(platform='cuda', topology_name='h100', topology='1x1x1',"
  code += " target_config=targets.gpu_description('h100'))"
  env["XLA_FLAGS"] += " " + " ".join(flags)
  subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True)
