"""The house: who may import whom, how long a file may be, what importing us costs."""

import ast
import importlib
import pathlib
import subprocess
import sys
import warnings

import pytest

import paligemma_jax

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "paligemma_jax"
BUILDERS = ROOT / "tools" / "prepare"
LINES_WARN, LINES_WALL = 300, 450

# Lower floors never import upper ones; parts of one floor do not know each other.
FLOORS = (
  {"core"},
  {"regions", "launch"},
  {"config"},
  {"sources", "pp", "evals", "trackers"},
  {"presets", "report"},
  {"data", "models"},
  {"training", "decoding"},
  {"checkpoint"},
  {"multihost"},
  {"trainer"},
  {"planning"},
  {"commands"},
)
# Files of the package that configs import; the other ones beside them are the commands.
CONFIG_FILES = ("presets",)
# What any config file may import of ours, so that it loads fast and without JAX.
CONFIG_PARTS = {
  "core",
  "config",
  "regions",
  "sources",
  "pp",
  "evals",
  "trackers",
  "presets",
  "paligemma_jax",
}
HEAVY = ("jax", "jaxlib", "flax", "optax", "orbax", "tensorflow", "grain", "torch")


def python_files():
  folders = ("paligemma_jax", "configs", "transfers", "tools", "tests")
  return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def part_of(path):
  """'core' for paligemma_jax/core/x.py, 'commands' for paligemma_jax/train.py."""
  parts = path.relative_to(PACKAGE).parts
  if len(parts) > 1:
    return parts[0]
  return path.stem if path.stem in CONFIG_FILES else "commands"


def imported(path):
  """Dotted names that the file imports, also inside functions: 'paligemma_jax.core.errors'."""
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      # The builders are of two packages: tools.prepare in a clone, else paligemma_jax.builders.
      neighbour = node.level == 1 and path.parent == BUILDERS
      assert node.level == 0 or neighbour, f"{path}: relative import"
      above = "tools.prepare" if neighbour else ""
      module = ".".join(filter(None, (above, node.module)))
      yield from (f"{module}.{alias.name}" for alias in node.names)


def parts_imported(path):
  """Parts of the house that the file imports."""
  for name in imported(path):
    top, _, rest = name.partition(".")
    if top in ("configs", "transfers", "tools", "tests"):
      yield top
    elif top == "paligemma_jax":
      part = rest.partition(".")[0]
      inner = part in CONFIG_FILES or (PACKAGE / part).is_dir()
      yield part if inner and part else ("commands" if part else "paligemma_jax")


def floor_of(part):
  found = [i for i, floor in enumerate(FLOORS) if part in floor]
  assert found, f"{part!r} is on no floor; give it one in {__file__}"
  return found[0]


def allowed(own, other):
  if other in ("configs", "transfers", "tools", "tests"):
    return False
  return own == other or floor_of(other) < floor_of(own)


def test_lower_floors_never_import_upper_ones():
  wrong = []
  for path in sorted(PACKAGE.rglob("*.py")):
    if path == PACKAGE / "__init__.py":
      continue
    own = part_of(path)
    for other in set(parts_imported(path)):
      if other != "paligemma_jax" and not allowed(own, other):
        wrong.append(f"{path.relative_to(ROOT)} ({own}) imports {other}")
  assert not wrong, "\n".join(sorted(wrong))


def test_the_floor_rule_tells_right_from_wrong():
  assert allowed("training", "models")
  assert not allowed("core", "data")
  assert not allowed("data", "models")
  assert not allowed("models", "checkpoint")
  assert allowed("core", "core")
  assert not allowed("trainer", "commands")
  assert not allowed("core", "tests")


def test_configs_and_transfers_import_only_what_needs_no_jax():
  wrong = []
  for folder in ("configs", "transfers"):
    for path in sorted((ROOT / folder).rglob("*.py")):
      wrong += [
        f"{path.relative_to(ROOT)} imports {part}"
        for part in set(parts_imported(path)) - CONFIG_PARTS
      ]
      wrong += [
        f"{path.relative_to(ROOT)} imports {name}"
        for name in imported(path)
        if name.partition(".")[0] in HEAVY
      ]
  assert not wrong, "\n".join(wrong)


def test_transfers_import_nothing_from_each_other():
  for path in sorted((ROOT / "transfers").rglob("*.py")):
    assert "transfers" not in set(parts_imported(path)), path


@pytest.mark.parametrize("path", python_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short_and_say_what_they_are(path):
  text = path.read_text(encoding="utf-8")
  num_lines = text.count("\n")
  assert num_lines <= LINES_WALL, f"{num_lines} lines; the wall is {LINES_WALL}"
  if num_lines > LINES_WARN:
    warnings.warn(f"{path.relative_to(ROOT)} has {num_lines} lines, more than {LINES_WARN}")
  assert path.stem not in ("utils", "util", "misc", "common", "helpers")
  assert not text.strip() or ast.get_docstring(ast.parse(text)), "no docstring in the first line"


def loaded_by(statement):
  """The heavy modules that are in memory after the statement ran in a fresh process."""
  code = f"import sys\n{statement}\nprint(*sorted(set(sys.modules) & {set(HEAVY)!r}))"
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  return done.stdout.split()


@pytest.mark.parametrize(
  "statement",
  [
    "import paligemma_jax",
    "import paligemma_jax.config.load, paligemma_jax.config.command_line",
    "import paligemma_jax.sources",
    "import paligemma_jax.pp",
    "import paligemma_jax.evals",
    "import paligemma_jax.models.variants",
    "import paligemma_jax as pj; pj.default_config(); pj.sources, pj.pp, pj.evals, pj.trackers",
    "import paligemma_jax.presets",
  ],
)
def test_importing_does_not_load_jax_or_tensorflow(statement):
  assert loaded_by(statement) == []


def test_the_import_of_the_package_loads_nothing_of_ours_but_itself():
  code = (
    "import sys, paligemma_jax\nprint(*[m for m in sys.modules if m.startswith('paligemma_jax.')])"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
  )
  assert done.stdout.split() == []


@pytest.mark.parametrize("name", paligemma_jax.__all__)
def test_every_public_name_is_there(name):
  assert getattr(paligemma_jax, name) is not None
  assert name in dir(paligemma_jax)


def test_what_readers_of_types_are_told_is_what_is_there():
  tree = ast.parse((PACKAGE / "__init__.py").read_text())
  (block,) = (node for node in tree.body if isinstance(node, ast.If))
  imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
  told = {alias.asname: (node.module, alias.name) for node in imports for alias in node.names}
  told["constraints"] = told.pop(None)  # Has another name, so it is set.
  assert set(told) == set(paligemma_jax.__all__)
  for name, (module, attribute) in told.items():
    if name in ("convert", "train"):  # The module, which is that function too.
      continue
    there = importlib.import_module(module)
    expected = getattr(there, attribute, None) or importlib.import_module(f"{module}.{attribute}")
    assert getattr(paligemma_jax, name) is expected


def test_an_unknown_public_name_is_an_attribute_error():
  with pytest.raises(AttributeError, match="nonesuch"):
    _ = paligemma_jax.nonesuch
