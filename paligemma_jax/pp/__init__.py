"""Row ops: they turn a row of a source into `image`, `prefix` and `suffix`. No JAX.

`OPS` has the built-in ops. An op of your own is any class declared with `@spec` that has the
methods of `core.protocols.Op`.
"""

from paligemma_jax.pp.boxes import Boxes
from paligemma_jax.pp.boxes import DrawBox
from paligemma_jax.pp.boxes import KeepClasses
from paligemma_jax.pp.boxes import MaskToText
from paligemma_jax.pp.boxes import NoiseBoxes
from paligemma_jax.pp.boxes import ParseBoxes
from paligemma_jax.pp.decode import Decode
from paligemma_jax.pp.resize import InceptionCrop
from paligemma_jax.pp.resize import RandomCrop
from paligemma_jax.pp.resize import Resize
from paligemma_jax.pp.resize import ResizeSmall
from paligemma_jax.pp.resize import StackImages
from paligemma_jax.pp.text import Choice
from paligemma_jax.pp.text import Copy
from paligemma_jax.pp.text import Format
from paligemma_jax.pp.text import GetIndex
from paligemma_jax.pp.text import Join
from paligemma_jax.pp.text import LetterChoices
from paligemma_jax.pp.text import Lower
from paligemma_jax.pp.text import Majority
from paligemma_jax.pp.text import Split

OPS = {
  op.__name__: op
  for op in (
      Boxes, Choice, Copy, Decode, DrawBox, Format, GetIndex, InceptionCrop, Join,
      KeepClasses, LetterChoices, Lower, Majority, MaskToText, NoiseBoxes, ParseBoxes,
      RandomCrop, Resize, ResizeSmall, Split, StackImages
  )
}  # fmt: skip

__all__ = ["OPS"]
__all__ += list(OPS)
