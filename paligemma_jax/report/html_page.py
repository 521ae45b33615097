"""The frame of our HTML pages: one file each, no script, nothing loaded, light and dark."""

from __future__ import annotations

import html
import re
from typing import Any

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

_STYLE = """
:root { color-scheme: light dark; --ground: #f6f7f9; --card: #fff; --ink: #1b1f24;
  --soft: #5d6673; --line: #dfe3e8; --target: #12853f; --predicted: #c2410c; --wrong: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --card: #1e2228; --ink: #e8eaed;
  --soft: #9aa4b1; --line: #343a43; --target: #4ade80; --predicted: #fb923c; --wrong: #f2857d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 20px 14px 60px; }
h1 { font-size: 1.5rem; margin: .2em 0 .1em; }
h2 { font-size: 1.05rem; margin: 1.6em 0 .5em; }
p.lead { color: var(--soft); margin: 0 0 1em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 14px; border-bottom: 1px solid var(--line); text-align: right; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
tr:last-child td { border-bottom: 0; }
"""


def escape(value: Any) -> str:
  """Text that is safe inside an element and inside a quoted attribute, whatever it holds."""
  text = str(value).encode("utf-8", "replace").decode()
  return html.escape(_CONTROL.sub("\ufffd", text), quote=True)


def page(title: str, lead: str, body: str, *, style: str = "") -> str:
  """A whole HTML document.

  Args:
    title: plain text.
    lead: one plain sentence below it; '' for none.
    body: HTML, its texts escaped.
    style: CSS beyond that of all pages.
  """
  # The policy forbids scripts and anything from elsewhere, should a text ever slip through.
  policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
  return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}{style}</style>
</head>
<body><main>
<h1>{escape(title)}</h1>
{f'<p class="lead">{escape(lead)}</p>' if lead else ""}
{body}
</main></body>
</html>
"""
