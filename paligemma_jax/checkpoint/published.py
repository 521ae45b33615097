"""The released files by name: what they are called, where to get them and where to put them."""

from __future__ import annotations

import os
import pathlib

from paligemma_jax.checkpoint import hub
from paligemma_jax.core import errors

DIRECTORY_VARIABLE = "PALIGEMMA_JAX_CKPTS"
TOKENIZER = "paligemma_tokenizer.model"

_PAGES = {
  "paligemma": "https://www.kaggle.com/models/google/paligemma (JAX)",
  "paligemma2": "https://www.kaggle.com/models/google/paligemma-2 (JAX)",
}
_TOKENIZER_PAGE = "https://storage.googleapis.com/big_vision/paligemma_tokenizer.model"
# Tasks of the released fine-tuned PaliGemma 1, at 224 and 448 px, and those also at 896 px.
_TUNED = (
    "ai2d", "aokvqa-da", "aokvqa-mc", "coco35l", "cococap", "gqa", "nlvr2", "okvqa", "rsvqa-hr",
    "rsvqa-lr", "science-qa", "scicap", "screen2words", "tallyqa", "textcaps", "vizwizvqa", "vqav2",
    "widgetcap",
)  # fmt: skip
_TUNED_896 = ("docvqa", "infovqa", "ocrvqa", "refcoco-seg", "stvqa", "textvqa")
# Short name -> released name. The short ones of PaliGemma 1 are the reference's; those with a size
# in them are PaliGemma 2.
_RELEASED = {
  **{f"pt_{r}": f"paligemma-3b-pt-{r}" for r in (224, 448, 896)},
  **{f"mix_{r}": f"paligemma-3b-mix-{r}" for r in (224, 448)},
  **{
    f"pt_{size}_{r}": f"paligemma2-{size}-pt-{r}"
    for size in ("3b", "10b", "28b")
    for r in (224, 448, 896)
  },
  **{
    f"mix_{size}_{r}": f"paligemma2-{size}-mix-{r}"
    for size in ("3b", "10b", "28b")
    for r in (224, 448)
  },
  **{f"ft_{t}_{r}": f"paligemma-3b-ft-{t}-{r}" for t in _TUNED for r in (224, 448)},
  **{f"ft_{t}_{r}": f"paligemma-3b-ft-{t}-{r}" for t in _TUNED_896 for r in (224, 448, 896)},
  **{f"ft_{s}_docci_448": f"paligemma2-{s}-ft-docci-448" for s in ("3b", "10b")},
}
_OWNER = "google/"  # Of the released files on the Hugging Face hub.
# Made by us and part of the package.
_EMBEDDED = {
  "tiny_112": pathlib.Path(__file__).parent.parent / "assets" / "demo" / "tiny_112.npz",
}
# Of several precisions in one folder the most precise is taken.
_ENDINGS = (".npz", ".bf16.npz", ".b16.npz", ".f16.npz", "")


def find(name: str | os.PathLike) -> pathlib.Path:
  """The path of a published name ('pt_224', 'paligemma2-3b-pt-224'), of an id on the Hugging Face
  hub ('google/paligemma2-3b-pt-224', also with '@bfloat16'), or of an existing path.

  'tiny_112' is the small model of the demo, which is part of the package.

  Published files are looked for in $PALIGEMMA_JAX_CKPTS, else in ./checkpoints, as an npz file or
  a Hugging Face directory; then in the cache of the hub's tools. An id of the hub that is in
  neither place is downloaded, see `hub`.

  Raises:
    CheckpointError: nothing is there; says where to get a published file and where to put it.
  """
  path = pathlib.Path(name)
  if path.exists():
    return path
  key = str(name)
  if key in _EMBEDDED:
    return _EMBEDDED[key]
  bare = key.removeprefix(_OWNER)
  released = _RELEASED.get(bare, bare)
  if released not in _RELEASED.values():
    if hub.looks_like_an_id(key):
      return hub.find(key)
    is_name = "/" not in key and not path.suffix
    hint = errors.did_you_mean(key, [*_RELEASED, *_EMBEDDED]) if is_name else ""
    raise errors.CheckpointError(
      f"{key!r}: there is no such file or directory, and it is no published name.{hint}"
    )
  folder = directory()
  short = {full: s for s, full in _RELEASED.items()}[released]
  for stem in (released, short):
    for ending in _ENDINGS:
      if (folder / (stem + ending)).exists():
        return folder / (stem + ending)
  cached = hub.cached(_OWNER + released)
  if cached or key.startswith(_OWNER):
    return cached or hub.find(key)
  raise errors.CheckpointError(
    f"{key!r} is published as {released}.npz but is not in {folder}/. Accept its licence and get"
    f" it from {_PAGES[released.partition('-')[0]]}, get {TOKENIZER} from {_TOKENIZER_PAGE}, and"
    f" put both into {folder}/ (set {DIRECTORY_VARIABLE} to use another folder). Or give its id"
    f" on the Hugging Face hub, '{_OWNER}{released}'."
  )


def directory() -> pathlib.Path:
  """Where published files are looked for."""
  return pathlib.Path(os.environ.get(DIRECTORY_VARIABLE, "checkpoints"))


def hub_id(path: str | os.PathLike) -> str:
  """The id on the Hugging Face hub of released weights, by their name or file's name; or ''."""
  stem = pathlib.Path(path).name
  for ending in sorted(_ENDINGS, key=len, reverse=True):
    if ending and stem.endswith(ending):
      stem = stem.removesuffix(ending)
      break
  released = _RELEASED.get(stem, stem)
  return _OWNER + released if released in _RELEASED.values() else ""


def find_tokenizer(weights: pathlib.Path) -> pathlib.Path | None:
  """The tokenizer's file that lies with the weights, or None: SentencePiece, or tokenizer.json."""
  folder = weights if weights.is_dir() else weights.parent
  stems = (folder / "tokenizer.model", folder / TOKENIZER, weights.with_suffix(".model"))
  if weights.is_dir():
    stems += (folder / "tokenizer.json",)
  return next((path for path in stems if path.is_file()), None)


_PREFIXES = {
  "paligemma_3b": "pt",
  "paligemma2_3b": "pt_3b",
  "paligemma2_10b": "pt_10b",
  "paligemma2_28b": "pt_28b",
  "tiny": "",
}


def pretrained(model: str, res: int) -> str:
  """The name for `init` of the pretrained checkpoint: pretrained("paligemma2_3b", 448) is
  "pt_3b_448". Of "tiny", which has none at these resolutions, it is "": random weights.

  Raises:
    ConfigError: an unknown variant, or a resolution that was not published.
  """
  prefix = errors.pick(_PREFIXES, model, "model")
  if prefix and res not in (224, 448, 896):
    raise errors.ConfigError(f"There is no pretrained {model} at {res} px; take 224, 448 or 896.")
  return f"{prefix}_{res}" if prefix else ""
