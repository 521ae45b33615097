"""docs/several_hosts.md: its commands run, on this machine."""

import re
import shlex

import pytest

from paligemma_jax import plan
from paligemma_jax.planning import answer
from paligemma_jax.planning import targets
from tests import run_train

DOCS = run_train.ROOT / "docs"
PAGE = (DOCS / "several_hosts.md").read_text("utf-8")
(LOOP,) = [block for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL) if "for i" in block]
# The rows of the table that name a command: {its program: the command}.
STARTED = {
  command.split()[0]: command
  for command in re.findall(r"`([^`]* python -m paligemma_jax.train …)`", PAGE)
}
# As in gpu_docs_test.py, so that the tests of a suite compile it once.
DEMO = "transfers/demo.py:steps=2,batch_size=8"
PLANS = [
  (name, line)
  for name in ("several_hosts", "cloud_tpu")
  for line in (DOCS / f"{name}.md").read_text("utf-8").replace("\\\n", " ").splitlines()
  if "-m paligemma_jax.plan" in line
]


@pytest.mark.slow  # 15 s: two processes.
def test_two_hosts_are_started_on_one_machine_by_the_loop(tmp_path):
  script = LOOP.replace("127.0.0.1:1234", f"127.0.0.1:{run_train.free_port()}")
  script = script.replace("transfers/demo.py", DEMO).replace("runs/two_hosts", str(tmp_path / "w"))
  done = run_train.run_script(script, tmp_path)
  assert done.returncode == 0, done.stderr[-2000:]
  assert run_train.last_step(tmp_path / "w") == 2
  assert "2 cpu device(s)" in done.stderr, done.stderr[-2000:]


@pytest.mark.long  # Half a minute: four processes. docs/gpu.md's batch file runs srun.
def test_open_mpi_starts_four_hosts(tmp_path):
  assert set(STARTED) == {"srun", "mpirun"}
  words = shlex.split(STARTED["mpirun"])
  assert words[1] == "-n"
  address = "'OMPI_MCA_orte_hnp_uri=1531576320.0;tcp://127.0.0.1:34911'"
  ranks = "OMPI_COMM_WORLD_SIZE=$2 OMPI_COMM_WORLD_RANK=$i OMPI_COMM_WORLD_LOCAL_RANK=$i"
  done = run_train.run_script(
    STARTED["mpirun"].replace("…", f"--config {DEMO} --workdir {tmp_path / 'w'}"),
    tmp_path,
    {"mpirun": run_train.starter("$2", f"{address} {ranks}").replace('"$@"', '"${@:3}"')},
    JAX_COORDINATOR_PORT=str(run_train.free_port()),
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert run_train.last_step(tmp_path / "w") == 2
  assert "4 cpu device(s)" in done.stderr, done.stderr[-2000:]


@pytest.mark.parametrize("page, line", PLANS)
def test_a_plan_is_of_a_config_and_a_slice_that_are_there(page, line):
  args = plan.parser().parse(shlex.split(line.lstrip("$ "))[3:])
  assert targets.get(args.on).platform == "tpu"
  assert answer.Change(args.config, args.overrides).load().train.source
