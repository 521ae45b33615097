"""The page of what fits where."""

import json

from paligemma_jax.planning import targets
from tools import plan_table


def test_every_cell_of_the_table_is_a_program_that_can_be_asked_for():
  cells = plan_table.cells()
  assert len({cell.key for cell in cells}) == len(cells)
  for cell in cells:
    assert cell.batch_size % targets.get(cell.device).num_chips == 0


def test_the_page_shows_what_fits_what_does_not_and_what_is_unknown():
  def cell(fits, gib, fits_with=""):
    return {"fits": fits, "fits_with": fits_with, "bytes": {"total": gib * 2**30}}

  found = {
    "paligemma_3b 224 full_adam v5e-1": cell(False, 45.6),
    "paligemma_3b 224 full_adam v5e-8": cell(True, 6.5),
    "paligemma_3b 224 full_adam h100": cell(False, 66.6, "export XLA_CLIENT_MEM_FRACTION=0.9"),
    "paligemma_3b 224 lora v5e-1": cell(True, 6.7),
  }
  page = plan_table.page(found)
  assert [line for line in page.splitlines() if line.startswith("|")] == [
    "|  | v5e-1 | v5e-8 | h100 |",
    "| --- | --- | --- | --- |",
    "| `full_adam` | 45.6 ✗ | **6.5** | 66.6 ◦ |",
    "| `lora` | **6.7** |  |  |",
  ]
  assert "paligemma2_28b" not in page  # Nothing is known of it.


def test_the_page_is_that_of_the_cells():
  found = plan_table.read()
  for key, cell in found.items():
    assert cell["bytes"]["total"] > 0 and json.dumps(cell), key
  assert (plan_table.ROOT / "docs" / "plan.md").read_text() == plan_table.page(found)
