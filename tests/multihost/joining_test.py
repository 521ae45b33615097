"""How the hosts of a run are found: by JAX, or by three variables; one process has no team."""

import http.server
import json
import os
import subprocess
import sys
import threading
from typing import ClassVar

import pytest

_FIND = """
import json, os, sys
import jax
os.environ.pop("TPU_SKIP_MDS_QUERY", None)  # JAX sets it where it is told to expect a TPU.
from paligemma_jax.core import errors
from paligemma_jax.multihost import agreement
found = []
for env in json.loads(sys.argv[1]):
  os.environ.update(env)
  try:
    found.append(agreement._found(5.0))
  except errors.PaligemmaError as e:
    found.append([type(e).__name__, str(e)])
  for name in env:
    del os.environ[name]
print(json.dumps(found))
"""
_SLURM = {
  "SLURM_JOB_ID": "70000",
  "SLURM_STEP_NODELIST": "gpu[07-09,12]",
  "SLURM_NTASKS": "4",
  "SLURM_PROCID": "2",
  "SLURM_LOCALID": "1",
}
_OPEN_MPI = {
  "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
  "OMPI_COMM_WORLD_SIZE": "2",
  "OMPI_COMM_WORLD_RANK": "1",
  "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}
_NAMED = {
  "JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234",
  "JAX_NUM_PROCESSES": "3",
  "JAX_PROCESS_ID": "2",
}


def found(*envs, **env):
  """What is found under each of the environments, one after the other."""
  plain = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "SLURM", "OMPI"))}
  done = subprocess.run(
    [sys.executable, "-c", _FIND, json.dumps(envs)],
    env={**plain, "JAX_PLATFORMS": "cpu", **env},
    text=True,
    capture_output=True,
    check=False,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow  # A process with JAX.
def test_schedulers_and_variables_name_the_hosts():
  alone, one, named, ipv6, slurm, one_of_slurm, mpi = found(
    {},
    {"JAX_NUM_PROCESSES": "1"},
    _NAMED,
    {**_NAMED, "JAX_COORDINATOR_ADDRESS": "[fd00::1]:1234"},
    _SLURM,
    {**_SLURM, "JAX_NUM_PROCESSES": "1"},
    _OPEN_MPI,
  )
  assert alone is None and one is None and one_of_slurm is None
  assert named == [["10.0.0.1", 1234], 3, 2, None]
  assert ipv6[0] == ["fd00::1", 1234]
  # JAX's rule for the port: 61440 + the job's number modulo 4096.
  assert slurm == [["gpu07", 61440 + 70000 % 4096], 4, 2, [1]]
  assert mpi[:3] == [["10.96.0.1", 61440 + 1531576320 // 4096 % 4096], 2, 1]


@pytest.mark.slow  # A process with JAX.
def test_variables_that_are_missing_or_wrong_are_named():
  missing, text, negative, outside, port = found(
    {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234", "JAX_NUM_PROCESSES": "2"},
    {**_NAMED, "JAX_NUM_PROCESSES": "two"},
    {**_NAMED, "JAX_PROCESS_ID": "-1"},
    {**_NAMED, "JAX_PROCESS_ID": "3"},
    {**_NAMED, "JAX_COORDINATOR_ADDRESS": "10.0.0.1"},
  )
  for kind, _ in (missing, text, negative, outside, port):
    assert kind == "ConfigError"
  assert "are set, but not JAX_PROCESS_ID: several hosts need all three" in missing[1]
  assert "JAX_NUM_PROCESSES is 'two'; expected a number" in text[1]
  assert "JAX_PROCESS_ID is '-1'" in negative[1]
  assert "JAX_PROCESS_ID is 3; expected 0 to 2" in outside[1]
  assert "expected NAME:PORT of host 0" in port[1]


class _Metadata(http.server.BaseHTTPRequestHandler):
  """What the metadata server of the second VM of a Cloud TPU slice says."""

  values: ClassVar = {
    "agent-worker-number": "1",
    "worker-network-endpoints": "10.1.0.2,10.1.0.3",
    "tpu-env": "WORKER_ID: '1'\nACCELERATOR_TYPE: 'v5litepod-16'",
  }

  def do_GET(self):
    value = self.values.get(self.path.rsplit("/", 1)[-1].split("?")[0])
    self.send_response(404 if value is None else 200)
    self.end_headers()
    self.wfile.write((value or "").encode())

  def log_message(self, *_):
    pass


@pytest.mark.slow  # A process with JAX.
def test_the_hosts_of_a_cloud_tpu_slice_are_those_of_its_metadata_or_of_gke():
  server = http.server.HTTPServer(("127.0.0.1", 0), _Metadata)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  try:
    vm, gke, one = found(
      {},
      {"TPU_WORKER_HOSTNAMES": "localhost,b,c", "TPU_WORKER_ID": "2"},
      {"JAX_NUM_PROCESSES": "1"},
      GCE_METADATA_IP=f"127.0.0.1:{server.server_port}",
      JAX_FORCE_TPU_INIT="1",
    )
  finally:
    server.shutdown()
  assert vm == [["10.1.0.2", 8482], 2, 1, None]
  assert gke[:3] in ([["10.1.0.2", 8482], 2, 1], [["localhost", 8482], 3, 2])
  assert one is None
