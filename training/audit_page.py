"""An audit, to be looked at: one page with pictures, and the same as JSON and PNG."""

import html
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
from PIL import Image

from registry.images import ImageSpec, prepare
from training.audit import Audit
from training.page import DPI, chart, charts, page, picture, table
from training.problems import Problem

COLOURS = {"train": "#2563a8", "valid": "#c2402d", "test": "#6b7280", "not split": "#2563a8"}
SHOWN = 12  # examples of each problem
AUDIT_PICTURES = {
    "audit_classes.png": "How many images each class has in each part",
    "audit_sizes.png": "Width and height of the images in pixels",
}
TOGETHER = 4  # images of one group of equals
MANY_CLASSES = 40  # above this the bars have no names
THUMBNAIL = ImageSpec(size=128, crop="squash")


def write_audit(audit: Audit, folder: Path) -> None:
    """`folder` holds audit.html (self-contained), audit.json and two pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in draw_audit(audit).items():
        figure.savefig(folder / name, dpi=DPI)
    text = json.dumps(figures(audit), indent=2)
    (folder / "audit.json").write_text(text, encoding="utf-8")
    (folder / "audit.html").write_text(_page(audit, folder), encoding="utf-8")


def figures(audit: Audit) -> dict[str, Any]:
    """The JSON of an audit; problems with all of their files."""
    facts = [item.facts for item in audit.items if item.facts]
    return {
        "images": len(audit.items),
        "classes": {label: dict(counts) for label, counts in audit.counts.items()},
        "sizes": _counted(f"{fact.width}x{fact.height}" for fact in facts),
        "modes": _counted(fact.mode for fact in facts),
        "formats": _counted(fact.format for fact in facts),
        "bytes": sum(fact.n_bytes for fact in facts),
        "problems": [
            {
                "kind": problem.kind,
                "text": problem.text,
                "severe": problem.severe,
                "files": [[audit.name(row) for row in rows] for rows in problem.rows]
                or list(problem.files),
            }
            for problem in audit.problems
        ],
    }


def _counted(values: Any) -> dict[str, int]:
    return dict(Counter(values).most_common(20))


def summary(audit: Audit) -> list[str]:
    """Lines for a terminal."""
    told = figures(audit)
    parts = Counter(item.part or "not split" for item in audit.items)
    lines = [
        f"{told['images']} images of {len(told['classes'])} classes, "
        f"{told['bytes'] / 1e6:.1f} MB: "
        + ", ".join(f"{count} {part}" for part, count in parts.items()),
        f"sizes {_most(told['sizes'])}; modes {_most(told['modes'])}; "
        f"formats {_most(told['formats'])}",
    ]
    for problem in audit.problems:
        lines.append(f"{'PROBLEM' if problem.severe else 'remark '}  {problem.text}")
        lines += [f"           {line}" for line in _files(audit, problem)[:3]]
    return lines if audit.problems else [*lines, "nothing wrong was found"]


def _most(counts: dict[str, int]) -> str:
    shown = [f"{name} ({count})" for name, count in list(counts.items())[:3]]
    return ", ".join(shown) + (", …" if len(counts) > 3 else "")


def _files(audit: Audit, problem: Problem) -> list[str]:
    if problem.files:
        return list(problem.files)
    return [" = ".join(audit.name(row) for row in rows[:TOGETHER]) for rows in problem.rows]


# The pictures


def draw_audit(audit: Audit, kind: type[Figure] = Figure) -> dict[str, Figure]:
    """How many images each class has in each part, and how large they are, by file name;
    figures of `kind`."""
    many = len(audit.counts) > MANY_CLASSES
    height = 4.5 if many else 2 + 0.2 * len(audit.counts)
    figures = {}
    for name, draw, tall in zip(AUDIT_PICTURES, (_bars, _sizes), (height, 3.2), strict=True):
        figures[name] = kind(figsize=(5.2, tall), layout="constrained")
        axis = figures[name].subplots()
        axis.spines[["top", "right"]].set_visible(False)
        draw(axis, audit)
    return figures


def _bars(axis: Axes, audit: Audit) -> None:
    labels = list(audit.counts)
    begun = np.zeros(len(labels))
    high = 0.8 if len(labels) <= MANY_CLASSES else 1  # a bar has room between others, or none
    for part, colour in COLOURS.items():
        lengths = np.array([audit.counts[label][part] for label in labels], dtype=float)
        if lengths.any():
            axis.barh(range(len(labels)), lengths, high, left=begun, color=colour, label=part)
            begun += lengths
    axis.set(xlabel="images")
    axis.invert_yaxis()
    if len(labels) <= MANY_CLASSES:
        axis.set_yticks(range(len(labels)), [label[:24] for label in labels])
    else:
        axis.set_yticks([])
    if len(labels):
        figure = axis.get_figure()
        assert figure is not None
        figure.legend(frameon=False, fontsize=9, ncols=3, loc="outside lower center")


def _sizes(axis: Axes, audit: Audit) -> None:
    counts = Counter((item.facts.width, item.facts.height) for item in audit.items if item.facts)
    axis.set(xlabel="width in pixels", ylabel="height in pixels")
    if not counts:
        return
    sizes = np.array(list(counts))
    areas = 12 + 200 * np.sqrt(np.array(list(counts.values())) / max(counts.values()))
    axis.scatter(sizes[:, 0], sizes[:, 1], s=areas, color=COLOURS["train"], alpha=0.35)
    if sizes.max() > 10 * sizes.min():
        axis.set(xscale="log", yscale="log")
        for side in (axis.xaxis, axis.yaxis):  # 20, 50, 100 rather than powers of ten
            side.set_major_locator(LogLocator(subs=(1, 2, 5)))
            side.set_major_formatter(ScalarFormatter())
            side.set_minor_formatter(NullFormatter())
    if len(counts) == 1:
        axis.annotate(f"all are {sizes[0, 0]} x {sizes[0, 1]}", sizes[0], ha="center", va="top",
                      xytext=(0, -14), textcoords="offset points")  # fmt: skip


# The page


def _page(audit: Audit, folder: Path) -> str:
    told = figures(audit)
    name = audit.root.resolve().name
    parts = [
        f"<h1>{html.escape(name)}: data audit</h1>",
        f"<p>{told['images']} images of {len(told['classes'])} classes, "
        f"{told['bytes'] / 1e6:.1f} MB. Modes {html.escape(_most(told['modes']))}; formats "
        f"{html.escape(_most(told['formats']))}; sizes {html.escape(_most(told['sizes']))}.</p>",
        problem_list(audit),
        charts([chart((folder / each).read_bytes(), alt) for each, alt in AUDIT_PICTURES.items()]),
    ]
    for problem in audit.problems:
        if problem.rows or problem.files:
            parts += [f"<h2>{html.escape(problem.text)}</h2>", _examples(audit, problem)]
    parts += ["<h2>Classes</h2>", class_table(audit)]
    return page(f"{name}: data audit", parts)


def problem_list(audit: Audit) -> str:
    """HTML: what is wrong, the severe in red."""
    if not audit.problems:
        return "<p>Nothing wrong was found.</p>"
    lines = (
        f'<li class="{"severe" if problem.severe else ""}">{html.escape(problem.text)}</li>'
        for problem in audit.problems
    )
    return f"<ul>{''.join(lines)}</ul>"


def class_table(audit: Audit) -> str:
    """HTML: images of each class and part."""
    parts = [part for part in COLOURS if any(counts[part] for counts in audit.counts.values())]
    rows = [
        [label, *(str(counts[part]) for part in parts)] for label, counts in audit.counts.items()
    ]
    return table([["class", *parts], *rows])


def _examples(audit: Audit, problem: Problem) -> str:
    if problem.files:
        return table([["file and reason"], *([line] for line in problem.files[:SHOWN])], "facts")
    shown = (
        '<div class="example">' + "".join(_figure(audit, row) for row in rows[:TOGETHER]) + "</div>"
        for rows in problem.rows[:SHOWN]
    )
    more = len(problem.rows) - SHOWN
    rest = f"<p>… and {more} more, in audit.json.</p>" if more > 0 else ""
    return f'<div class="examples">{"".join(shown)}</div>{rest}'


def _figure(audit: Audit, row: int) -> str:
    item = audit.items[row]
    content = io.BytesIO()
    Image.fromarray(prepare(item.path.read_bytes(), THUMBNAIL)).save(content, "JPEG", quality=80)
    size = f"{item.facts.width} x {item.facts.height}" if item.facts else ""
    said: Sequence[str] = (audit.name(row), ", ".join(item.labels), f"{item.part or ''} {size}")
    caption = "<br>".join(html.escape(line) for line in said if line.strip())
    image = picture(content.getvalue(), "jpeg", audit.name(row))
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
