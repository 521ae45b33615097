"""Rows or ops that change under a run are refused by name, or allowed and counted."""

import json
import shutil

import pytest

from paligemma_jax import pp
from paligemma_jax import sources
from paligemma_jax.config import load as configs
from paligemma_jax.core import errors
from paligemma_jax.trainer import loop
from paligemma_jax.trainer import metrics

LINES = [json.dumps({"image": f"{i}.png", "suffix": f"number {i}"}) for i in range(6)]


def _config(folder, total="2 epochs"):
  c = configs.default_config()
  c.model.update(variant="tiny", res=28, overrides={"llm": {"depth": 1}, "img": {"depth": 1}})
  rows = sources.Jsonl(str(folder / "train.jsonl"), images=str(folder))
  ops = (pp.Decode(), pp.Resize(28), pp.Format("what"))
  c.train.update(source=rows, pp=ops, text_len=16, batch_size=2, total=total)
  c.optim.lr = 1e-3
  c.ckpt.every = "3 steps"
  c.log.update(every="1 steps", tensorboard=False)
  return c


@pytest.fixture(scope="module")
def started(tmp_path_factory):
  """(folder of the rows, workdir) of a run that was ended after step 3 of 6."""
  from PIL import Image

  folder = tmp_path_factory.mktemp("rows")
  for i in range(8):
    Image.new("RGB", (28, 28), (i, 0, 0)).save(folder / f"{i}.png")
  (folder / "train.jsonl").write_text("\n".join(LINES))
  loop.train(_config(folder), folder / "w")
  shutil.rmtree(folder / "w" / "checkpoints" / "6")
  (folder / "w" / "report.html").unlink()
  return folder, folder / "w"


CHANGES = {
  "edit": ([*LINES[:2], LINES[2].replace("number", "letter"), *LINES[3:]], r"row 2 .*differs"),
  "add": (
    [*LINES, LINES[0].replace("0", "6"), LINES[0].replace("0", "7")],
    r"2 rows were added at the end, from row 6 .*jsonl:7.*'2 epochs' is now 8 steps, it was 6",
  ),
  "drop": ([*LINES[:1], *LINES[2:]], r"1 row was taken out, where now row 1 .*jsonl:2"),
  "reorder": ([LINES[1], LINES[0], *LINES[2:]], r"in another order, from row 0 .*jsonl:1"),
}


@pytest.mark.slow  # 20 s: a small model is compiled, and run five times more.
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_rows_is_refused_by_name_or_allowed_and_counted(started, change, tmp_path):
  folder, workdir = started
  workdir = shutil.copytree(workdir, tmp_path / "w")
  lines, named = CHANGES[change]
  (folder / "train.jsonl").write_text("\n".join(lines))
  before = (workdir / "data.json").read_bytes(), (workdir / "config.json").read_bytes()
  with pytest.raises(errors.ConfigError, match=rf"(?s){named}.*--allow_data_change"):
    loop.train(_config(folder), workdir)
  assert before == ((workdir / "data.json").read_bytes(), (workdir / "config.json").read_bytes())
  loop.train(_config(folder), workdir, allow_data_change=True)
  lines = metrics.read(workdir / "metrics.jsonl")
  found = {line["step"]: line.get("data_changes") for line in lines}
  last = {"add": 8, "drop": 5}.get(change, 6)
  assert found == {step: None if step <= 3 else 1 for step in range(1, last + 1)}
  (record,) = json.loads((workdir / "data.json").read_text())["changes"]
  assert record["step"] == 3


@pytest.mark.slow  # 5 s.
def test_a_changed_op_is_refused_by_name_or_allowed_and_counted(started, tmp_path):
  folder, workdir = started
  workdir = shutil.copytree(workdir, tmp_path / "w")
  (folder / "train.jsonl").write_text("\n".join(LINES))
  config = _config(folder)
  config.train.pp = (*config.train.pp[:2], pp.Format("which"))
  named = r"(?s)train\.pp\[2\]\.\w+: 'what' -> 'which'.*--allow_data_change"
  with pytest.raises(errors.ConfigError, match=named):
    loop.train(config, workdir)
  loop.train(config, workdir, allow_data_change=True)
  assert metrics.read(workdir / "metrics.jsonl")[-1]["data_changes"] == 1


@pytest.mark.slow  # 5 s.
def test_a_run_goes_on_to_a_greater_total_and_says_what_lr_is_now(started, tmp_path, capsys):
  folder, workdir = started
  workdir = shutil.copytree(workdir, tmp_path / "w")
  (folder / "train.jsonl").write_text("\n".join(LINES))
  loop.train(_config(folder, "4 epochs"), workdir)
  told = capsys.readouterr().err
  assert "the run now has 12 steps instead of 6; its schedule (cosine) ends there" in told
  lines = {line["step"]: line for line in metrics.read(workdir / "metrics.jsonl")}
  assert list(lines) == list(range(1, 13))
  assert lines[6]["lr"] > 0.5e-3  # At half of the new length; it was near 0 before.
