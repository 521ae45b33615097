"""As `tests.faults.readers`, of what a run leaves behind: weights, state, lines, configurations."""

import json
import zlib

from tests.faults.readers import Reader

_ANSWERS = (
  "<loc0100><loc0200><loc0300><loc0400> cat ; <loc0001><loc0002><loc0900><loc1023> a dog",
  "<loc0000><loc0000><loc0512><loc0512><seg000><seg001><seg127><seg064><seg000><seg001><seg127>"
  "<seg064><seg000><seg001><seg127><seg064><seg000><seg001><seg127><seg064> cat",
)


def _make_native(folder):
  import jax
  import numpy as np

  from paligemma_jax.checkpoint import export
  from paligemma_jax.checkpoint import store
  from paligemma_jax.config import load as configs
  from paligemma_jax.models import paligemma
  from paligemma_jax.models import variants
  from paligemma_jax.trainer import setup
  from paligemma_jax.training import optimizers
  from paligemma_jax.training import sharding
  from paligemma_jax.training import state as states
  from tests.checkpoint import makers

  config = configs.default_config()
  config.model.update(variant="tiny", res=28)
  small = {"width": 8, "depth": 1, "mlp_dim": 8, "num_heads": 2}
  config.model.overrides = {"img": small, "llm": {**small, "head_dim": 4, "vocab_size": 64}}
  config.optim.update(lr=1e-3, freeze=("img/.*",))
  model_config = variants.of_run(config.model.to_dict(), config.lora.to_dict())
  params = paligemma.init_params(model_config, jax.random.key(0))
  trainable, _ = optimizers.split(params, config.optim)
  shapes = {name: params[name] for name in trainable}
  optimizer = optimizers.make(config.optim, shapes, 10, names=params, batch_size=8)
  mesh = sharding.make_mesh(config.mesh)
  state = states.make(params, trainable, optimizer, mesh, dtype=np.float32)
  configs.save(config, folder / "run" / "config.json")
  files = {
    "config.json": (folder / "run" / "config.json").read_bytes(),
    "tokenizer.model": setup.DEMO_TOKENIZER.read_bytes(),
  }
  saver = store.Checkpoints(
    folder / "run" / "checkpoints", keep=1, best_mode="max", async_save=False, files=files
  )
  facts = {
    "line": [["loss", 1.0], ["val/loss/loss", 1.0]],
    "rows": {"truncated": 3},
    "nonfinite": {"count": 1, "streak": 0, "forgiven": 0},
  }
  saver.save(state, facts)
  saver.close()
  sizes = makers.sizes(post_norms=True)
  tokenizer = files["tokenizer.model"]
  export.save_native(folder / "weights", makers.params(sizes), sizes, tokenizer=tokenizer)


def _read_native(folder, changed):
  from paligemma_jax.checkpoint import manifest
  from paligemma_jax.checkpoint import opening

  if any(name.startswith("weights/") for name in changed):
    weights = opening.open_weights(folder / "weights")
  else:
    for step in manifest.steps_in(folder / "run" / "checkpoints"):
      try:
        manifest.verify_step(folder / "run" / "checkpoints" / str(step))
      except manifest.Broken:  # What `opening` makes its own error of.
        break
    weights = opening.open_weights(folder / "run")
  opening.config_of(weights.sizes, dtype="float32")
  for name in weights.entries:
    weights.read(name)


def _repair_native(folder, changed):
  """Seals again what was changed, so that not only the checksums are tried."""
  for name in changed:
    path = folder / name
    sealed = next((p for p in path.parents if (p / "SEAL.json").is_file()), None)
    if sealed is None or not path.is_file() or path.is_symlink():
      continue
    try:
      content = json.loads((sealed / "SEAL.json").read_bytes())
      if name.startswith("weights/"):
        _seal_weights(sealed, path, content)
      else:
        _seal_step(sealed, path, content["body"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
      pass  # The seal itself was changed into something else.


def _seal_weights(folder, path, content):
  if path.name != "SEAL.json":
    data = path.read_bytes()
    content["files"][path.name] = {"bytes": len(data), "crc32": zlib.crc32(data)}
  content["crc32"] = zlib.crc32(json.dumps(content["files"], sort_keys=True).encode())
  (folder / "SEAL.json").write_text(json.dumps(content))


def _seal_step(folder, path, body):
  from paligemma_jax.checkpoint import manifest

  if path.name != "SEAL.json":
    data = path.read_bytes()
    body["files"][str(path.relative_to(folder))] = [len(data), f"{zlib.crc32(data):08x}"]
  (folder / "SEAL.json").write_bytes(manifest._render(body))
  if folder.name == "base":  # The step beside it names its checksum.
    (step,) = (p for p in folder.parent.iterdir() if p.name.isdecimal())
    other = json.loads((step / "SEAL.json").read_bytes())["body"]
    other["facts"]["base"] = manifest.seal_crc(folder)
    (step / "SEAL.json").write_bytes(manifest._render(other))


def _make_tokenizer(folder):
  from paligemma_jax.data import tokenizer_files
  from paligemma_jax.trainer import setup

  data = setup.DEMO_TOKENIZER.read_bytes()
  (folder / "tokenizer.model").write_bytes(data)
  (folder / "added_tokens.json").write_text(json.dumps({"<more>": 2176, "<image>": 2177}))
  (folder / "tokenizer.json").write_text(tokenizer_files.from_model(data, image_token=1024))


def _read_tokenizer(folder, changed):
  if any(name != "tokenizer.json" for name in changed):
    _use(folder / "tokenizer.model")
  if "tokenizer.json" in changed:
    _use(folder / "tokenizer.json")


def _use(path):
  from paligemma_jax.data import tokenizer

  found = tokenizer.Tokenizer(str(path))
  ids = found.encode("a cat <loc0001> é\n")
  found.decode([*ids, *range(0, found.vocab_size, 7)])
  [found.text_of(i) for i in range(0, found.vocab_size, 5)]
  found.ends(ids)


def _lines(path, records):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(record) + "\n" for record in records))


def _parts():
  ops = '[{"__spec__": "paligemma_jax.pp.resize:Resize", "size": 28}]'
  return {"rows": "jsonl:3", "seed": "0", "ops": ops}


def _settings():
  return {"ckpt": "a", "rows": ["a.png"]}


def _make_lines(folder):
  _lines(folder / "metrics.jsonl", [{"step": i, "loss": 0.5 / i, "val/a": "NaN"} for i in (1, 2)])
  _lines(folder / "bad_rows.jsonl", [{"row": 3, "where": "a:3", "reason": "bad"}])
  _lines(folder / "predictions" / "val" / "pred-2.jsonl", [{"row": 0, "prompt": "q", "text": "a"}])
  data = {**_parts(), "num_rows": 3, "total": 2, "changes": [{"step": 1, "what": ["rows"]}]}
  (folder / "data.json").write_text(json.dumps(data))
  (folder / "data_rows.bin").write_bytes(bytes(6))
  (folder / "report.html").write_text("so the run was begun")
  gallery = [{"row": i, "image": "a.png", "prompt": "q", "text": "a"} for i in range(2)]
  _lines(folder / "out.jsonl", gallery)
  (folder / ".out.jsonl.settings.json").write_text(json.dumps(_settings()))
  (folder / "lock").write_text(json.dumps({"host": "a", "pid": 5, "since": "now"}))


def _read_lines(folder, changed):
  from paligemma_jax.trainer import bad_rows
  from paligemma_jax.trainer import metrics
  from paligemma_jax.trainer import outputs
  from paligemma_jax.trainer import predicting
  from paligemma_jax.trainer import resume
  from paligemma_jax.trainer import workdir as workdirs

  with workdirs.opened(folder, main=True) as workdir:
    for line in metrics.read(workdir.metrics):
      assert all(isinstance(value, (int, float)) for value in line.values()), line
    outputs._predictions(workdir, "val/pred", 2)
    metrics.MetricsLog(workdir, resume_step=2, tensorboard=False, main=True).close()
    rejected = bad_rows.BadRows(workdir)
    rejected.add(4, "a:4", "bad")
    rejected.close()
    rows = range(3)
    resume.check_data(_parts(), rows, 2, workdir, duration="2 steps", allow_data_change=False)
    with predicting.opened(folder / "out.jsonl", _settings()) as gallery:
      gallery.append([{"row": gallery.num_done, "text": "b"}])


def _make_answers(folder):
  from paligemma_jax import evals
  from paligemma_jax import pp
  from paligemma_jax import sources
  from paligemma_jax.config import load as configs

  for i, text in enumerate(_ANSWERS):
    (folder / f"{i}.txt").write_text(text)
  c = configs.default_config()
  c.model.update(variant="tiny", res=28)
  rows = sources.Jsonl("rows.jsonl", columns=("image", "suffix"))
  part = sources.Part(rows, (pp.Lower("suffix"),), weight=1.0)
  ops = (pp.Decode(), pp.Resize(28), pp.Format("caption en"))
  c.train.update(source=sources.Mixture((part, part)), pp=ops, total="2 epochs")
  c.optim.update(lr=1e-3, freeze=("img/.*",), lr_mults=(("llm/.*", 0.1),))
  c.evals = (evals.Perplexity("val/loss", rows, ops), evals.WritePredictions("val/p", rows, ops))
  configs.save(c, folder / "config.json")


def _read_answers(folder, changed):
  from paligemma_jax.config import load as configs
  from paligemma_jax.models import variants
  from paligemma_jax.regions import loc
  from paligemma_jax.report import report

  for name in changed:
    path = folder / name
    if path.suffix == ".txt":
      if path.is_file() and not path.is_symlink():
        text = path.read_bytes().decode("utf-8", "replace")
        report.parse_answer(text, 48, 64, codec="")
        loc.parse_boxes(text, bins=1023)
      continue
    kept = configs.read(path, keep_unknown=True)
    configs.changes(kept, configs.default_config())
    config = configs.load(str(path), ["seed=1"])
    configs.validate(config, training=True, variants=variants.VARIANTS)
    variants.of_run(config.model.to_dict(), config.lora.to_dict())


READERS = {
  "native": Reader(_make_native, _read_native, _repair_native),
  "tokenizer": Reader(_make_tokenizer, _read_tokenizer),
  "run_files": Reader(_make_lines, _read_lines),
  "answers_and_config": Reader(_make_answers, _read_answers),
}
