"""Starts a run on several hosts of this machine, and watches how it ends."""

import dataclasses
import os
import re
import subprocess
import time

from paligemma_jax.multihost import channel
from tests import run_train

SMALL = """
import paligemma_jax as pj
from paligemma_jax import evals, pp, sources

@pj.sweepable
def get_config(data: str = "", total: str = "6 steps", lr: float = 1e-3, seed: int = 0,
               save: str = "2 steps", ev: bool = False):
  c = pj.default_config()
  c.model.update(variant="tiny", res=28, overrides={"llm": {"depth": 1}, "img": {"depth": 1}})
  train = sources.Jsonl(f"{data}/train.jsonl", images=data)
  ops = (pp.Decode(), pp.Resize(28))
  c.train.update(source=train, pp=ops, text_len=32, batch_size=8, total=total)
  c.optim.update(lr=lr)
  c.seed = seed
  c.ckpt.every = save
  c.log.update(every="1 steps", tensorboard=False)
  if ev:
    val = evals.Perplexity("val/loss", train, ops, every="4 steps", text_len=32, batch_size=8)
    c.evals = (val,)
  return c
"""


@dataclasses.dataclass(frozen=True)
class Ended:
  """How a host ended: `code` is None when it had to be killed; `text` is all that it wrote."""

  code: int | None
  text: str

  @property
  def errors(self):
    return [line for line in self.text.splitlines() if line.startswith("error:")]


class Hosts:
  """The processes of one run.

  Args:
    config_of, workdir_of, env_of, prefix_of: called with the host's number.
  """

  def __init__(
    self,
    count,
    config_of,
    workdir_of,
    *flags,
    folder,
    env_of=lambda i: {},
    prefix_of=lambda i: (),
    address="",
    devices=1,
  ):
    address = address or f"127.0.0.1:{channel.free_port()}"
    self._began = time.monotonic()
    self.processes, self._logs = [], []
    for i in range(count):
      log = folder / f"log{time.monotonic_ns()}-{i}.txt"
      env = {
        **os.environ,
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(i),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        **env_of(i),
      }
      command = run_train.command(config_of(i), workdir_of(i), *flags)
      with open(log, "wb") as out:
        self.processes.append(
          subprocess.Popen(
            [*prefix_of(i), *command], cwd=run_train.ROOT, env=env, stdout=out, stderr=out
          )
        )
      self._logs.append(log)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    for process in self.processes:
      if process.poll() is None:
        process.kill()
      process.wait()

  def text(self, i):
    return self._logs[i].read_text(errors="replace")

  def wait_for(self, i, pattern, secs=180.0):
    """Waits until what host i wrote matches."""
    deadline = time.monotonic() + secs
    while not re.search(pattern, self.text(i)):
      assert time.monotonic() < deadline, f"{pattern!r} was not seen in:\n{self.text(i)[-2000:]}"
      assert self.processes[i].poll() is None or re.search(pattern, self.text(i)), self.text(i)
      time.sleep(0.05)

  def wait_for_step(self, step, workdir, secs=180.0):
    deadline = time.monotonic() + secs
    while run_train.last_step(workdir) < step:
      assert time.monotonic() < deadline, f"step {step} was not reached:\n{self.text(0)[-2000:]}"
      if all(p.poll() is not None for p in self.processes):
        return
      time.sleep(0.005)

  def signal(self, i, number):
    self.processes[i].send_signal(number)

  def end(self, secs=90.0):
    """([Ended of each], seconds until the last one ended)."""
    begin = time.monotonic()
    while time.monotonic() - begin < secs and any(p.poll() is None for p in self.processes):
      time.sleep(0.05)
    took = time.monotonic() - begin
    codes = [p.poll() for p in self.processes]
    self.__exit__()
    return [Ended(code, self.text(i)) for i, code in enumerate(codes)], took
