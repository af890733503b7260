"""The look of a report's pages: self-contained HTML for a laptop, a phone and paper."""

import base64
import html
from collections.abc import Sequence

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #1f2937; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; } th, td { padding: .25rem .8rem; text-align: right;
       border-bottom: 1px solid #d1d5db; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.facts td { text-align: left; vertical-align: top; }
.facts td:last-child { overflow-wrap: anywhere; white-space: normal; }
.examples { display: flex; flex-wrap: wrap; gap: 1rem; }
.example { display: flex; gap: .25rem; padding: .4rem; border: 1px solid #d1d5db; }
figure { margin: 0; width: 8rem; } figure img { width: 8rem; image-rendering: auto; }
figcaption { font-size: .75rem; line-height: 1.25; overflow-wrap: anywhere; }
.severe { color: #c2402d; }
@media print { h2 { break-after: avoid; } img, .example { break-inside: avoid; } }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """A whole document; `parts` are HTML."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>"
    )


def table(rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """The first of `rows` is the head."""
    head, *body = rows
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in body
    )
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def picture(content: bytes, kind: str, alt: str) -> str:
    """An image that is part of the page; `kind` is png or jpeg."""
    data = base64.b64encode(content).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/{kind};base64,{data}">'
