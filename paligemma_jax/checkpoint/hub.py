"""Published weights by name: released files, and ids on the Hugging Face hub with "@revision".

Files in the cache of the hub's tools are read without a package or a network. Others are
downloaded with the package `huggingface_hub`, if it is installed; an interrupted download resumes,
see `fetch`.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
from typing import Any

from absl import logging

from paligemma_jax.checkpoint import hf
from paligemma_jax.core import bucket
from paligemma_jax.core import errors

_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w.-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_REF_BYTES = 1000
# All that comes with weights; no pickles, no code.
_WANTED = ("*.json", "*.safetensors", "*.npz", "*.model", "*.txt", "*.jinja", "*.md")
_ENDPOINT = "https://huggingface.co"


def looks_like_an_id(name: str) -> bool:
  """True for "owner/name" and "owner/name@revision", unless a folder "owner" is here."""
  match = _ID.fullmatch(name)
  return bool(match) and not pathlib.Path(name.partition("/")[0]).exists()


def find(name: str) -> pathlib.Path:
  """The folder, or the npz file, of a hub id; downloads what the cache has not.

  Raises:
    CheckpointError: it is not in the cache and cannot be downloaded; says what to do.
  """
  return cached(name) or _weights(_download(name))


def cached(name: str) -> pathlib.Path | None:
  """The same from the cache alone; None where its weights are not all there."""
  repo, revision = _parts(name)
  place = cache() / _folder(repo)
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
  repo, _, revision = name.partition("@")
  return repo, revision or "main"


def _folder(repo: str) -> str:
  """The name of a repository's folder in the cache."""
  return "models--" + repo.replace("/", "--")


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


def _download(name: str) -> pathlib.Path:
  repo, revision = _parts(name)
  page = f"{os.environ.get('HF_ENDPOINT') or _ENDPOINT}/{repo}"
  at = "" if revision == "main" else f" --revision {revision}"
  by_hand = f"download it with `hf download {repo}{at}`, or give the folder that it is in"
  no_file = f"{name!r}: there is no such file or directory"
  absent = f"{no_file}, and as an id of the Hugging Face hub ({page}) it is not whole in {cache()}"
  if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
    raise errors.CheckpointError(
      f"{absent}, and HF_HUB_OFFLINE forbids a download: unset it, or online {by_hand}."
    )
  try:
    import huggingface_hub
    from huggingface_hub import utils
  except ImportError:
    raise errors.CheckpointError(
      f"{absent}: `pip install huggingface_hub` and try again, or {by_hand}."
    ) from None
  logging.warning("%s: not in %s, so it is downloaded from %s", name, cache(), page)
  try:
    fetch(repo, revision, cache())
    return pathlib.Path(
      huggingface_hub.snapshot_download(
        repo, revision=revision, cache_dir=cache(), allow_patterns=list(_WANTED)
      )
    )
  except errors.CheckpointError:
    raise
  except utils.GatedRepoError:
    why = (
      f"{name!r} is gated: accept its licence on {page}, then `hf auth login` (or set HF_TOKEN)"
      f" with that account, or {by_hand}"
    )
  except utils.RevisionNotFoundError:
    why = (
      f"{name!r} has no revision {revision!r}: take one of those on {page}/tree/main, or leave it"
      " out"
    )
  except utils.RepositoryNotFoundError:
    why = (
      f"{no_file}, and it is not on the Hugging Face hub, or not for everyone: look at its"
      f" spelling on {page}, and `hf auth login` if it is private"
    )
  except Exception as e:  # Of the package and of the network below it: any.
    said = " ".join(str(e).split())[:300].rstrip(".")
    why = (
      f"{no_file}, and it could not be downloaded from the Hugging Face hub, {page}"
      f" ({type(e).__name__}: {said}): the same command goes on with what is there, or {by_hand}"
    )
  raise errors.CheckpointError(f"{why}.")


_LARGE = (".safetensors", ".npz")
_SHA256 = re.compile(r"[0-9a-f]{64}")  # The name of a large file's content, by which it is checked.
_MB = 1 << 20


def fetch(repo: str, revision: str, cache: pathlib.Path) -> None:
  """Brings the weights of a revision into the cache's blobs; what is whole there stays.

  Raises:
    CheckpointError: a file is not what its name says; it is removed.
    Exception: the package's own errors, and those of the network below it.
  """
  import huggingface_hub

  info = huggingface_hub.HfApi().model_info(repo, revision=revision)
  for name in sorted(sibling.rfilename for sibling in info.siblings or ()):
    if name.endswith(_LARGE):
      url = huggingface_hub.hf_hub_url(repo, name, revision=info.sha)
      found = huggingface_hub.get_hf_file_metadata(url)
      if found.size and _SHA256.fullmatch(found.etag or ""):
        _fetch(
          url, found, f"{repo}/{name}", cache / _folder(repo), cache / ".locks" / _folder(repo)
        )


def _fetch(url: str, found: Any, what: str, folder: pathlib.Path, locks: pathlib.Path) -> None:
  """One file, under the lock that the hub's tools take for it."""
  from huggingface_hub import file_download
  from huggingface_hub import utils

  blob = folder / "blobs" / found.etag
  partial = blob.with_name(f"{blob.name}.incomplete")
  for place in (blob.parent, locks):
    place.mkdir(parents=True, exist_ok=True)
  with utils.WeakFileLock(locks / f"{blob.name}.lock"):
    if blob.exists():
      return
    with open(partial, "ab") as file:
      if (start := file.tell()) > found.size:
        start = file.seek(0)
        file.truncate()
      if start:
        logging.warning("%s: goes on at %d of %d MB", what, start // _MB, found.size // _MB)
      if start < found.size:
        headers = {**utils.build_hf_headers(), "Accept-Encoding": "identity"}
        file_download.http_get(
          url, file, resume_size=start, headers=headers, expected_size=found.size
        )
    with open(partial, "rb") as file:
      digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != blob.name:
      partial.unlink()
      raise errors.CheckpointError(
        f"{what} was damaged on the way, by its SHA-256, and is removed: run the same command"
        " again."
      )
    partial.replace(blob)


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
_KINDS = {"pt": (224, 448, 896), "mix": (224, 448)}
# Short name -> released name. The short ones of PaliGemma 1 are the reference's; those with a size
# in them are PaliGemma 2.
_RELEASED = {
  **{f"{kind}_{r}": f"paligemma-3b-{kind}-{r}" for kind, res in _KINDS.items() for r in res},
  **{
    f"{kind}_{size}_{r}": f"paligemma2-{size}-{kind}-{r}"
    for kind, res in _KINDS.items()
    for size in ("3b", "10b", "28b")
    for r in res
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


def find_released(name: str | os.PathLike) -> pathlib.Path:
  """The path of a published name ('pt_224', 'paligemma2-3b-pt-224'), of an id on the Hugging Face
  hub ('google/paligemma2-3b-pt-224', also with '@bfloat16'), or of an existing path.

  'tiny_112' is the small model of the demo, which is part of the package.

  Published files are looked for in $PALIGEMMA_JAX_CKPTS, else in ./checkpoints, as an npz file or
  a Hugging Face directory; then in the cache of the hub's tools. An id of the hub that is in
  neither place is downloaded, see `hub`.

  Raises:
    CheckpointError: nothing is there; says where to get a published file and where to put it.
  """
  path = bucket.path(name)
  if path.exists():
    return path
  if bucket.is_bucket(path):
    raise errors.CheckpointError(f"{path}: there is no such object or folder in the bucket.")
  key = str(name)
  if key in _EMBEDDED:
    return _EMBEDDED[key]
  bare = key.removeprefix(_OWNER)
  released = _RELEASED.get(bare, bare)
  if released not in _RELEASED.values():
    if looks_like_an_id(key):
      return find(key)
    is_name = "/" not in key and not path.suffix
    hint = errors.did_you_mean(key, [*_RELEASED, *_EMBEDDED]) if is_name else ""
    raise errors.CheckpointError(
      f"{key!r}: there is no such file or directory, and it is no published name.{hint}"
    )
  folder = pathlib.Path(os.environ.get(DIRECTORY_VARIABLE, "checkpoints"))
  short = {full: s for s, full in _RELEASED.items()}[released]
  for stem in (released, short):
    for ending in _ENDINGS:
      if (folder / (stem + ending)).exists():
        return folder / (stem + ending)
  found = cached(_OWNER + released)
  if found or key.startswith(_OWNER):
    return found or find(key)
  raise errors.CheckpointError(
    f"{key!r} is published as {released}.npz but is not in {folder}/. Accept its licence and get"
    f" it from {_PAGES[released.partition('-')[0]]}, get {TOKENIZER} from {_TOKENIZER_PAGE}, and"
    f" put both into {folder}/ (set {DIRECTORY_VARIABLE} to use another folder). Or give its id"
    f" on the Hugging Face hub, '{_OWNER}{released}'."
  )


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
  places = [folder / "tokenizer.model", folder / TOKENIZER, weights.with_suffix(".model")]
  if weights.is_dir():
    places.append(folder / "tokenizer.json")
  return next((path for path in places if path.is_file()), None)


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
