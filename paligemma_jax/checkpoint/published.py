"""The released files by name: what they are called, where to get them and where to put them."""

from __future__ import annotations

import json
import os
import pathlib
import re

from absl import logging

from paligemma_jax.checkpoint import hf
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
    if looks_like_an_id(key):
      return find_on_hub(key)
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
  cached = cached_on_hub(_OWNER + released)
  if cached or key.startswith(_OWNER):
    return cached or find_on_hub(key)
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


_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w.-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_REF_BYTES = 1000
# All that lies with weights; no pickles, no code.
_WANTED = ("*.json", "*.safetensors", "*.npz", "*.model", "*.txt", "*.jinja", "*.md")
_LOGIN = "Most PaliGemma weights want their licence accepted on the page and `hf auth login`."


def looks_like_an_id(name: str) -> bool:
  """True for "owner/name" and "owner/name@revision", unless a folder "owner" is here."""
  match = _ID.fullmatch(name)
  return bool(match) and not pathlib.Path(name.partition("/")[0]).exists()


def find_on_hub(name: str) -> pathlib.Path:
  """The folder, or the npz file, of a hub id; downloads what the cache has not.

  Raises:
    CheckpointError: it is not in the cache and cannot be downloaded; says what to do.
  """
  found = cached_on_hub(name)
  return _weights(_download(*_parts(name), name)) if found is None else found


def cached_on_hub(name: str) -> pathlib.Path | None:
  """The same from the cache alone; None where its weights are not all there."""
  repo, revision = _parts(name)
  place = cache() / ("models--" + repo.replace("/", "--"))
  commit = revision
  if not _COMMIT.fullmatch(revision):
    try:
      with open(place / "refs" / revision, encoding="ascii") as file:
        commit = file.read(_MAX_REF_BYTES).strip()
    except (OSError, ValueError):
      return None
    if not _COMMIT.fullmatch(commit):
      return None
  folder = place / "snapshots" / commit
  return _weights(folder) if _is_whole(folder) else None


def cache() -> pathlib.Path:
  """Where the hub's tools keep what they downloaded; the variables are theirs."""
  home = os.environ.get("HF_HOME") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
  )
  named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
  return pathlib.Path(named or os.path.join(home, "hub")).expanduser()


def _parts(name: str) -> tuple[str, str]:
  """(repository, revision)."""
  match = _ID.fullmatch(name)
  return match["repo"], match["revision"] or "main"


def _weights(folder: pathlib.Path) -> pathlib.Path:
  """The folder; or the one npz in it, where it is one of the JAX release."""
  files = sorted(folder.glob("*.npz"))
  return files[0] if len(files) == 1 and not (folder / "config.json").exists() else folder


def _is_whole(folder: pathlib.Path) -> bool:
  """Whether the weights are all there; each file of a snapshot appears when it is complete."""
  if not (folder / "config.json").is_file():
    return any(folder.glob("*.npz"))
  if (folder / hf.SINGLE).is_file():
    return True
  try:
    index = json.loads((folder / hf.INDEX).read_text())
    shards = set(index["weight_map"].values())
    return bool(shards) and all((folder / shard).is_file() for shard in shards)
  except (OSError, ValueError, LookupError, TypeError, AttributeError):
    return False


def _download(repo: str, revision: str, name: str) -> pathlib.Path:
  page = f"https://huggingface.co/{repo}"
  at = "" if revision == "main" else f" --revision {revision}"
  by_hand = f"download it with `hf download {repo}{at}`, or give the folder that it is in"
  if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
    raise errors.CheckpointError(
      f"{name!r}: there is no such file or directory. It reads as an id of the Hugging Face hub,"
      f" but {cache()} has it not whole, and HF_HUB_OFFLINE forbids a download. Online,"
      f" {by_hand}."
    )
  try:
    import huggingface_hub
  except ImportError:
    raise errors.CheckpointError(
      f"{name!r}: there is no such file or directory. It reads as an id of the Hugging Face hub"
      f" ({page}), but {cache()} has it not whole. `pip install huggingface_hub` and try again;"
      f" or {by_hand}. {_LOGIN}"
    ) from None
  logging.warning("%s: not in %s, so it is downloaded from %s", name, cache(), page)
  try:
    return pathlib.Path(
      huggingface_hub.snapshot_download(
        repo, revision=revision, cache_dir=cache(), allow_patterns=list(_WANTED)
      )
    )
  except Exception as e:  # Of the package and of the network below it: any.
    why = " ".join(str(e).split())[:300]
    raise errors.CheckpointError(
      f"{name!r} could not be downloaded from the Hugging Face hub: {type(e).__name__}: {why}."
      f" {_LOGIN} The same command goes on with what is there; or {by_hand}."
    ) from None
