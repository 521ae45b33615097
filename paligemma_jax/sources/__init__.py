"""Sources: specs whose `open()` gives rows by index. No JAX.

`SOURCES` has the built-in sources. A source of your own is any class declared with `@spec` that has
the methods of `core.protocols.Source`, and whose `open()` gives `core.protocols.Rows`.
"""

from paligemma_jax.sources.coco import Coco
from paligemma_jax.sources.csv_table import Csv
from paligemma_jax.sources.hf_dataset import HfDataset
from paligemma_jax.sources.jsonl import Jsonl
from paligemma_jax.sources.mixture import InMemory
from paligemma_jax.sources.mixture import Mixture
from paligemma_jax.sources.mixture import Part
from paligemma_jax.sources.mixture import Split
from paligemma_jax.sources.scenes import Masks
from paligemma_jax.sources.scenes import Scenes
from paligemma_jax.sources.tfds import Tfds
from paligemma_jax.sources.video import Video
from paligemma_jax.sources.voc import Voc
from paligemma_jax.sources.yolo import Yolo

SOURCES = {
  source.__name__: source
  for source in (
      Coco, Csv, HfDataset, InMemory, Jsonl, Masks, Mixture, Scenes, Split, Tfds, Video, Voc, Yolo
  )
}  # fmt: skip

__all__ = ["SOURCES", "Part"]
__all__ += list(SOURCES)
