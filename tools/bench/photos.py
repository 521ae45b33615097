"""JPEG files like photographs, and words to go with them, made from a seed."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 480, 640
_FALLOFF = 1.4  # Of amplitude with frequency; like photographs: 106 kB a file on average.
_QUESTIONS = ("caption en", "How many are there?", "What colour is the big one?")
_ANSWERS = ("a small red house in front of two trees", "three", "dark green and a bit of yellow")


def make(num: int, seed: int = 0) -> list[dict]:
  """Rows with image (bytes, 640 x 480, quality 90), prefix and suffix."""
  rng = np.random.default_rng(seed)
  return [
    {
      "image": _jpeg(_pixels(rng)),
      "prefix": _QUESTIONS[i % len(_QUESTIONS)],
      "suffix": _ANSWERS[i % len(_ANSWERS)],
    }
    for i in range(num)
  ]


def mean_kb(rows: list[dict]) -> float:
  """Size of a row's file."""
  return round(sum(len(row["image"]) for row in rows) / len(rows) / 1e3, 1)


def _pixels(rng: np.random.Generator) -> np.ndarray:
  """uint8[H, W, 3]: noise that falls off with frequency, its channels alike."""
  frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None])
  frequency[0, 0] = 1.0

  def noise():
    spectrum = rng.standard_normal((*frequency.shape, 2)).view(np.complex128)[..., 0]
    x = np.fft.irfft2(spectrum / frequency**_FALLOFF, s=(HEIGHT, WIDTH))
    return (x - x.mean()) / x.std()

  shared = noise()
  channels = [shared + 0.4 * noise() for _ in range(3)]
  return np.clip(127 + 50 * np.stack(channels, axis=-1), 0, 255).astype(np.uint8)


def _jpeg(pixels: np.ndarray) -> bytes:
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "JPEG", quality=90)
  return file.getvalue()
