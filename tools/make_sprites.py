"""Builds the demo's artwork: a sprite atlas, class names, and the tokenizer's word list.

The drawings come from the colour emoji font of the Noto project, the names from Unicode CLDR. Both
are Debian packages (`apt-get install fonts-noto-color-emoji unicode-cldr-core`); the font is read
with fonttools (`pip install fonttools`). The output is committed, so this only needs to run again
for other classes:

  python tools/make_sprites.py \
    --font=/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf \
    --annotations=/usr/share/unicode/cldr/common/annotations/en.xml
"""

from __future__ import annotations

import argparse
import io
import json
import pathlib
import xml.etree.ElementTree as ET

import numpy as np
from fontTools import ttLib
from PIL import Image

DEMO = pathlib.Path(__file__).resolve().parent.parent / "paligemma_jax" / "assets" / "demo"

# One concept each, with a one-word name, a regular plural, and a drawing that differs from the
# others at 24 pixels.
BASE = (
  "🐅🦁🐘🦓🐼🐨🐸🐕🐖🐄🐎🐒🐇🐊🐢🐍🐋🐬🦞🐌🕷🐓🦆🦜🦚"  # animals
  "🍕🍔🍌🍋🍐🍉🍊🥕🥑🍄🍪🍩🥐🥨🧁"  # food
  "✈🚁⛵🚕🚑🚂🎈🎺🥁🎻🔔🔑🔨🪓🪑📷💻🤖👻🌷🌻🌋🏰🏀"  # things
)
# Held out of pretraining.
HELDOUT = "🐧🦒🦩🦉🦀🍍🌮🚀🎸🚜👑☂"

CELL = 72  # pixels: a drawing's longer side in the atlas
COLUMNS = 10
COLORS = 64  # per drawing
ALPHA_SLACK = 24  # Reducing colours also changes the opacity (0…255) by about this much.


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--font", type=pathlib.Path, required=True)
  parser.add_argument("--annotations", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, default=DEMO)
  args = parser.parse_args()

  font = ttLib.TTFont(args.font)
  names = read_names(args.annotations)
  drawings = [(char, "base") for char in BASE] + [(char, "heldout") for char in HELDOUT]
  classes = []
  atlas = Image.new("RGBA", (COLUMNS * CELL, -(-len(drawings) // COLUMNS) * CELL))
  for i, (char, split) in enumerate(drawings):
    sprite = reduce_colors(crop(draw(font, char)))
    corner = (i % COLUMNS * CELL, i // COLUMNS * CELL)
    atlas.paste(sprite, corner)
    classes.append(
      {
        "name": names[char],
        "split": split,
        "codepoint": f"U+{ord(char):04X}",
        "box": [*corner, *sprite.size],  # x, y, width, height in the atlas
      }
    )

  args.out.mkdir(parents=True, exist_ok=True)
  atlas.save(args.out / "sprites.png", optimize=True)
  lines = ",\n".join("  " + json.dumps(c, ensure_ascii=False) for c in classes)
  (args.out / "names.json").write_text(f'{{"classes": [\n{lines}\n]}}\n', encoding="utf-8")
  words = sorted({name for char, name in names.items() if len(char) == 1 and ord(char) > 0x2300})
  (args.out / "words.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
  size = (args.out / "sprites.png").stat().st_size
  print(f"{len(classes)} sprites in {size} bytes, {len(words)} names, in {args.out}")


def read_names(path: pathlib.Path) -> dict[str, str]:
  """{character: its short name} from a CLDR annotations file."""
  root = ET.parse(path).getroot()
  return {a.get("cp"): a.text for a in root.iter("annotation") if a.get("type") == "tts"}


def draw(font: ttLib.TTFont, char: str) -> Image.Image:
  """The font's bitmap of one character, RGBA 136x128."""
  glyph = font.getBestCmap()[ord(char)]
  return Image.open(io.BytesIO(font["CBDT"].strikeData[0][glyph].imageData)).convert("RGBA")


def crop(image: Image.Image) -> Image.Image:
  """The drawing without its empty border, scaled so that its longer side has `CELL` pixels."""
  visible = np.asarray(image)[..., 3] >= 128
  rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
  box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
  image = image.crop(box)
  scale = CELL / max(image.size)
  size = [max(1, round(side * scale)) for side in image.size]
  # Premultiplied while resized ("RGBa"), so that no colour bleeds in from transparent pixels.
  return image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")


def reduce_colors(image: Image.Image) -> Image.Image:
  """The drawing in `COLORS` colours (a third of the bytes), nearly opaque pixels made opaque."""
  reduced = image.quantize(COLORS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
  pixels = np.array(reduced.convert("RGBA"))
  pixels[pixels[..., 3] > 255 - ALPHA_SLACK, 3] = 255
  pixels[pixels[..., 3] < ALPHA_SLACK] = 0
  return Image.fromarray(pixels, "RGBA")


if __name__ == "__main__":
  main()
