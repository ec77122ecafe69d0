"""Pages to photograph of what other programs show: the card of an export on a code host, and the tutorial in a notebook."""

import html
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from markdown import markdown
from plotly.offline import get_plotlyjs

STYLE = """
:root { color-scheme: light dark; --line: #d0d7de; --soft: #f3f5f8; --in: #0550ae }
@media (prefers-color-scheme: dark) { :root { --line: #444c56; --soft: #22272e; --in: #79b8ff } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 0 auto; padding: 16px }
h1 { font-size: 1.6em } h1, h2 { border-bottom: 1px solid var(--line); padding-bottom: .25em }
table { border-collapse: collapse; display: block; overflow-x: auto; max-width: 100%; font-size: 13px }
td, th { border: 1px solid var(--line); padding: 3px 9px } tr:nth-child(even) { background: var(--soft) }
p, li { overflow-wrap: anywhere } img { max-width: 100%; background: white }
pre { background: var(--soft); padding: 10px; overflow-x: auto; font-size: 13px; margin: 6px 0 }
.cell { border-left: 3px solid var(--in); padding-left: 8px } .out { padding-left: 11px; overflow-x: auto }
"""


def card_page(folder: Path) -> str:
    """Return the card of an exported folder as a page, to be written into that folder: its picture is shown from there."""
    text = markdown((folder / "README.md").read_text(encoding="utf-8"), extensions=["tables", "fenced_code"])
    return _page("card", text)


def notebook_page(path: Path, folder: Path) -> str:
    """Return a notebook as a page, after running it with `folder` as its working directory."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}}).execute()
    return _page(path.stem, "".join(_cell(cell) for cell in notebook.cells), f"<script>{get_plotlyjs()}</script>")


def _cell(cell: Any) -> str:
    if cell.cell_type == "markdown":
        return str(markdown(cell.source, extensions=["tables", "fenced_code"]))
    shown = "".join(_output(output) for output in cell.outputs)
    return f"<pre class='cell'>{html.escape(cell.source)}</pre><div class='out'>{shown}</div>"


def _output(output: Any) -> str:
    """Return the richest form of an output that a page can show."""
    data = output.get("data", {})
    if "application/vnd.plotly.v1+json" in data:
        figure = go.Figure(data["application/vnd.plotly.v1+json"])
        figure.update_layout(paper_bgcolor="white", autosize=True, title_font_size=13)
        return str(figure.to_html(full_html=False, include_plotlyjs=False, config={"responsive": True, "displayModeBar": False}))
    if "text/html" in data:
        return str(data["text/html"])
    return f"<pre>{html.escape(data.get('text/plain', output.get('text', '')))}</pre>"


def _page(title: str, body: str, script: str = "") -> str:
    head = "<meta charset='utf-8'><meta name='viewport' content='width=device-width,initial-scale=1'>"
    return (
        f"<!doctype html><html lang='en'><head>{head}<title>{title}</title><style>{STYLE}</style>{script}</head><body>{body}</body></html>"
    )
