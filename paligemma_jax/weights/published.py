"""The released files by name: what they are called, where to get them and where to put them."""

from __future__ import annotations

import os
import pathlib

from paligemma_jax.core import errors

DIRECTORY_VARIABLE = "PALIGEMMA_JAX_CKPTS"
TOKENIZER = "paligemma_tokenizer.model"

_PAGES = {
    "paligemma": "https://www.kaggle.com/models/google/paligemma (JAX)",
    "paligemma2": "https://www.kaggle.com/models/google/paligemma-2 (JAX)",
}
_TOKENIZER_PAGE = "https://storage.googleapis.com/big_vision/paligemma_tokenizer.model"
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
}
# Made by us and part of the package.
_EMBEDDED = {
    "tiny_112": pathlib.Path(__file__).parent.parent / "assets" / "demo" / "tiny_112.npz",
}
# Of several precisions in one folder the most precise is taken.
_ENDINGS = (".npz", ".bf16.npz", ".b16.npz", ".f16.npz", "")


def find(name: str | os.PathLike) -> pathlib.Path:
  """The path of a published name ('pt_224', 'paligemma2-3b-pt-224') or of an existing path.

  'tiny_112' is the small model of the demo, which is part of the package.

  Published files are looked for in $PALIGEMMA_JAX_CKPTS, else in ./checkpoints, as an npz file or
  a Hugging Face directory.

  Raises:
    CheckpointError: nothing is there; says where to get a published file and where to put it.
  """
  path = pathlib.Path(name)
  if path.exists():
    return path
  key = str(name)
  if key in _EMBEDDED:
    return _EMBEDDED[key]
  released = _RELEASED.get(key, key)
  if released not in _RELEASED.values():
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
  raise errors.CheckpointError(
      f"{key!r} is published as {released}.npz but is not in {folder}/. Accept its licence and get"
      f" it from {_PAGES[released.partition('-')[0]]}, get {TOKENIZER} from {_TOKENIZER_PAGE}, and"
      f" put both into {folder}/ (set {DIRECTORY_VARIABLE} to use another folder)."
  )


def directory() -> pathlib.Path:
  """Where published files are looked for."""
  return pathlib.Path(os.environ.get(DIRECTORY_VARIABLE, "checkpoints"))


def find_tokenizer(weights: pathlib.Path) -> pathlib.Path | None:
  """The SentencePiece file that lies with the weights, or None."""
  folder = weights if weights.is_dir() else weights.parent
  stems = (folder / "tokenizer.model", folder / TOKENIZER, weights.with_suffix(".model"))
  return next((path for path in stems if path.is_file()), None)
