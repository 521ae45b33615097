"""Files in the place of others: pointers of git-lfs, web pages, other formats; and what helps."""

from __future__ import annotations

import os

from paligemma_jax.core import atomic_io

HEAD_BYTES = 1024  # Which are enough to tell.

_LFS = b"version https://git-lfs.github.com/spec/"
_AVIF = (b"avif", b"avis")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_CONVERT = "Convert it before: image.convert('RGB').save('….png') with Pillow does"
_AGAIN = "Download the file again"
_STARTS = (
  (b"8BPS", "a Photoshop file"),
  (b"%PDF", "a PDF document"),
  (b"\xff\x0a", "a JPEG XL file"),
  (b"\0\0\0\x0cJXL ", "a JPEG XL file"),
  (b"\0\0\0\x0cjP  ", "a JPEG 2000 file"),
  (b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
  (b"\0\0\1\0", "an icon (ICO)"),
  (b"v/1\x01", "an OpenEXR file"),
  (b"II+\0", "a BigTIFF file"),
  (b"MM\0+", "a BigTIFF file"),
)


def not_downloaded(data: bytes) -> tuple[str, str]:
  """('a git-lfs pointer, …', what helps) where a download gave another file; else ('', '')."""
  text = _text(data)
  if data.startswith(_LFS):
    return (
      "a git-lfs pointer, not the file itself",
      "Run 'git lfs pull' where it was cloned, or download the file",
    )
  if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
    return (
      "an HTML page: a web site answered a download with it",
      f"{_AGAIN}; it may need a login, or be gone",
    )
  if text.startswith(b"<?xml") and b"<svg" not in text:
    return "XML text", f"{_AGAIN}; it may be the error message of a server"
  return "", ""


def image(data: bytes) -> tuple[str, str]:
  """As `not_downloaded`, and of files that are images of formats which are not read."""
  found = not_downloaded(data)
  text = _text(data)
  if found[0]:
    return found
  if b"<svg" in text and text.startswith(b"<"):
    return "an SVG drawing, which has no pixels", "Convert it to PNG before"
  if text.startswith((b'{"', b"{\n", b"{ ")):
    return "JSON text", f"{_AGAIN}; it may be the error message of a server"
  if data.startswith(b"PK\x03\x04") or data.startswith(b"\x1f\x8b"):
    return "an archive (ZIP or gzip)", "Unpack it before"
  if data[4:8] == b"ftyp":
    brands = (data[8:12], *(data[i : i + 4] for i in range(16, 64, 4)))
    if any(brand in _AVIF for brand in brands):
      return "an AVIF file", _CONVERT
    if any(brand in _HEIC for brand in brands):
      return "a HEIC file", f"{_CONVERT}, after 'pip install pillow-heif'"
    return "a video", "Read it with sources.Video"
  return next(((what, _CONVERT) for start, what in _STARTS if data.startswith(start)), ("", ""))


def _text(data: bytes) -> bytes:
  return data[:HEAD_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").lower()


def of_file(path: str | os.PathLike[str]) -> str:
  """A sentence on a regular file that a download left in place of another; else ''."""
  try:
    with atomic_io.open_regular(path) as f:
      what, remedy = not_downloaded(f.read(HEAD_BYTES))
  except OSError:
    return ""
  return f" It is {what}. {remedy}." if what else ""
