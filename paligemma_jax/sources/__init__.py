"""Where rows come from: specs whose `open()` gives rows by index. Importing this imports no JAX.

`SOURCES` is the table of what is built in; a source of your own is any class declared with `@spec`
that has these methods.

    open() -> rows      len(rows), rows[i] -> dict of columns (DataError for a row that is bad),
                        rows.where(i) -> "file:line", rows.fingerprint() -> text; picklable
    makes() -> tuple    names of the columns every row has; () when only the data can tell
"""

from paligemma_jax.sources.jsonl import Jsonl
from paligemma_jax.sources.memory import InMemory
from paligemma_jax.sources.scenes import Scenes
from paligemma_jax.sources.tfds import Tfds

SOURCES = {
    "InMemory": InMemory,
    "Jsonl": Jsonl,
    "Scenes": Scenes,
    "Tfds": Tfds,
}

__all__ = ["SOURCES", "InMemory", "Jsonl", "Scenes", "Tfds"]
