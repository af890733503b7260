"""The HTML of reports: self-contained pages for a laptop, a phone and paper, without scripts."""

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

SCREEN_DPI = 96  # of CSS
DPI = 130  # of charts, for high-resolution screens

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 1.5rem auto; padding: 0 1rem;
       color: #1f2937; background: #fff; }
h1 { font-size: 1.6rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: .5rem;
       border-top: 2px solid #d1d5db; }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
p { max-width: 45rem; margin: .5rem 0; }
li { overflow-wrap: anywhere; }
a { color: #1d4f91; } a:focus-visible, summary:focus-visible { outline: 2px solid #1d4f91; }
img { max-width: 100%; height: auto; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; list-style: none; }
.words { display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1rem; margin: 1rem 0; }
.words dt { font-weight: 600; } .words dd { margin: 0; max-width: 45rem; }
.severe { color: #a32a19; }
/* shadows at the sides to which it scrolls; white ones, which move along, cover them at the ends */
.scroll { overflow-x: auto; background: linear-gradient(to right, #fff 40%, #fff0) left,
       linear-gradient(to left, #fff 40%, #fff0) right,
       linear-gradient(to right, #0003, #0000) left, linear-gradient(to left, #0003, #0000) right;
       background-size: 2rem 100%, 2rem 100%, .8rem 100%, .8rem 100%;
       background-repeat: no-repeat; background-attachment: local, local, scroll, scroll; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #d1d5db;
       white-space: nowrap; vertical-align: top; }
th { font-weight: 600; white-space: normal; }
tbody th { font-weight: 400; overflow-wrap: break-word; white-space: normal; max-width: 18rem; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td small { display: block; color: #4b5563; line-height: 1.2; }
.facts td, .facts th { text-align: left; }
.names td:nth-child(2), .names th:nth-child(2) { text-align: left; white-space: normal;
       max-width: 18rem; }
.facts td:last-child { overflow-wrap: anywhere; white-space: normal; }
details { margin: .75rem 0; } summary { cursor: pointer; color: #1d4f91; }
figure { margin: 0; } figcaption { font-size: .8rem; line-height: 1.3; color: #374151; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr));
       gap: 1.25rem; align-items: start; margin: .75rem 0; }
.charts img { max-width: min(100%, 44rem); }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: .5rem;
       margin: .5rem 0; }
.tiles.double { grid-template-columns: repeat(auto-fill, minmax(14.5rem, 1fr)); }
.tiles figure { border: 1px solid #d1d5db; border-left: 4px solid #9ca3af; padding: .4rem;
       break-inside: avoid; }
.tiles .wrong { border-left-color: #b83220; }
.tiles .pair { display: flex; gap: 2px; } .tiles img { width: 100%; min-width: 0; }
.double img { max-width: calc(50% - 1px); }
.tiles figcaption span { display: block; overflow-wrap: anywhere; }
.examples { display: flex; flex-wrap: wrap; gap: 1rem; }
.example { display: flex; gap: .25rem; padding: .4rem; border: 1px solid #d1d5db; }
.example figure { width: 8rem; } .example img { width: 8rem; }
@media (max-width: 40rem) {
  body { margin: .75rem auto; } th, td { padding: .25rem .4rem; font-size: .85rem; }
  .words { display: block; } .words dd { margin-bottom: .5rem; }
  .tiles { grid-template-columns: repeat(3, 1fr); }
  .tiles.double { grid-template-columns: 1fr; }
  .double figure { display: grid; grid-template-columns: 3fr 2fr; gap: .5rem; }
}
@media print {
  @page { margin: 1.5cm; }
  body { font-size: 10pt; max-width: none; margin: 0; padding: 0; }
  h2, h3, h2 + p, summary { break-after: avoid; } tr, img, figure, .example { break-inside: avoid; }
  .scroll { overflow: visible; background: none; }
  table { font-size: 8.5pt; } th, td { white-space: normal; }
  table:not(:has(tr:nth-child(12))) { break-inside: avoid; }
  .charts { grid-template-columns: 1fr 1fr; gap: .5rem; }
  .tiles { grid-template-columns: repeat(4, 1fr); }
  .tiles.double { grid-template-columns: repeat(3, 1fr); }
  figure > img { max-height: 11cm; object-fit: contain; } p { break-inside: avoid; }
  details::details-content { content-visibility: visible; display: block; }
  .unprinted { display: none; }
}
"""


@dataclass(frozen=True)
class Section:
    """A part of a page, with an entry in its table of contents."""

    title: str
    body: str  # HTML

    @property
    def anchor(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def document(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """A whole page: a heading, the summary, a table of contents, the sections."""
    entries = "".join(
        f'<li><a href="#{each.anchor}">{html.escape(each.title)}</a></li>' for each in sections
    )
    bodies = (
        f'<section id="{each.anchor}"><h2>{html.escape(each.title)}</h2>{each.body}</section>'
        for each in sections
    )
    contents = f'<nav aria-label="Contents"><ul>{entries}</ul></nav>'
    return page(title, [f"<h1>{html.escape(title)}</h1>", *lead, contents, *bodies])


def page(title: str, parts: Sequence[str]) -> str:
    """A whole document; `parts` are HTML."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>"
    )


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{html.escape(text)}</p>' if kind else f"<p>{html.escape(text)}</p>"


def table(rows: Sequence[Sequence[str]], kind: str = "", caption: str = "table") -> str:
    """The first of `rows` is the header, the first cell of each row its name. What follows a line
    break in a cell is set in small type."""
    head, *body = rows
    cells = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    lines = "".join(
        f'<tr><th scope="row">{breakable(first)}</th>' + "".join(map(_cell, rest)) + "</tr>"
        for first, *rest in body
    )
    return (
        f'<div class="scroll" role="region" aria-label="{html.escape(caption)}" tabindex="0">'
        f'<table class="{kind}"><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>'
    )


def _cell(text: str) -> str:
    value, *small = text.split("\n")
    below = "".join(f"<small>{html.escape(line)}</small>" for line in small)
    return f"<td>{breakable(value)}{below}</td>"


def breakable(text: str) -> str:
    """HTML of a name that may be broken across lines after `_` and `/`."""
    return re.sub(r"(?<=[_/])", "<wbr>", html.escape(text))


def folded(summary: str, body: str, *, printed: bool = True) -> str:
    """Folded until opened; shown in print, unless `printed` is false."""
    kind = "" if printed else ' class="unprinted"'
    return f"<details{kind}><summary>{html.escape(summary)}</summary>{body}</details>"


def picture(content: bytes, kind: str, alt: str) -> str:
    """An image that is part of the page; `kind` is png or jpeg."""
    return f'<img alt="{html.escape(alt)}" src="{_address(content, kind)}">'


def _address(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def chart(content: bytes, alt: str, caption: str = "") -> str:
    """A PNG in the size it was drawn in, or as fits, with a caption below it."""
    with Image.open(io.BytesIO(content)) as drawn:
        width, height = (round(side * SCREEN_DPI / DPI) for side in drawn.size)
    size = f'width="{width}" height="{height}"'
    image = f'<img alt="{html.escape(alt)}" {size} src="{_address(content, "png")}">'
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{image}{below}</figure>"


def charts(figures: Sequence[str]) -> str:
    """Figures beside one another where there is room."""
    return f'<div class="charts">{"".join(figures)}</div>'
