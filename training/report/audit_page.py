"""The output of an audit: one HTML page with pictures, and the same as JSON and PNG."""

import html
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from registry.counted import counted
from registry.images import ImageSpec, prepare
from training.data.audit import Audit
from training.data.problems import Problem
from training.report.audit_pictures import AUDIT_PICTURES, COLOURS, draw_audit
from training.report.page import breakable, chart, charts, page, picture, table
from training.report.picture import save

SHOWN = 12  # examples of each problem
TOGETHER = 4  # images shown of a group of duplicates
THUMBNAIL = ImageSpec(size=128, crop="squash")


def write_audit(audit: Audit, folder: Path) -> None:
    """Writes audit.html (self-contained), audit.json and two charts into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in draw_audit(audit).items():
        save(figure, folder / name)
    text = json.dumps(figures(audit), indent=2)
    (folder / "audit.json").write_text(text, encoding="utf-8")
    (folder / "audit.html").write_text(_page(audit, folder), "utf-8", "backslashreplace")


def figures(audit: Audit) -> dict[str, Any]:
    """The JSON of an audit; problems with their files, some of which may only be counted."""
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
                "unlisted": problem.n_unlisted,
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
    data = figures(audit)
    parts: Counter[str] = Counter(item.part or "not split" for item in audit.items)
    lines = [
        f"{_size(data)}: " + ", ".join(f"{parts[part]} {part}" for part in COLOURS if parts[part]),
        f"sizes {_most(data['sizes'])}; modes {_most(data['modes'])}; "
        f"formats {_most(data['formats'])}",
    ]
    for problem in audit.problems:
        lines.append(f"{'PROBLEM' if problem.severe else 'remark '}  {problem.text}")
        lines += [f"           {line}" for line in _files(audit, problem)[:3]]
    return lines if audit.problems else [*lines, "no problems found"]


def _size(data: dict[str, Any]) -> str:
    n = len(data["classes"])
    return (
        f"{counted(data['images'], 'image')} of {counted(n, 'class', 'classes')}, "
        f"{data['bytes'] / 1e6:.1f} MB"
    )


def _most(counts: dict[str, int]) -> str:
    shown = [f"{name} ({count})" for name, count in list(counts.items())[:3]]
    return ", ".join(shown) + (" and others" if len(counts) > 3 else "")


def _files(audit: Audit, problem: Problem) -> list[str]:
    if problem.files:
        return list(problem.files)
    return [" = ".join(audit.name(row) for row in rows[:TOGETHER]) for rows in problem.rows]


def _page(audit: Audit, folder: Path) -> str:
    data = figures(audit)
    name = audit.root.resolve().name
    parts = [
        f"<h1>{html.escape(name)}: data audit</h1>",
        f"<p>{_size(data)}. Modes {html.escape(_most(data['modes']))}; formats "
        f"{html.escape(_most(data['formats']))}; sizes {html.escape(_most(data['sizes']))}.</p>",
        problem_list(audit),
        charts([chart((folder / each).read_bytes(), alt) for each, alt in AUDIT_PICTURES.items()]),
    ]
    for problem in audit.problems:
        if problem.rows or problem.files:
            parts += [f"<h2>{html.escape(_sentence(problem))}</h2>", _examples(audit, problem)]
    parts += ["<h2>Classes</h2>", class_table(audit)]
    return page(f"{name}: data audit", parts)


def problem_list(audit: Audit) -> str:
    """HTML: the problems, the severe in red."""
    if not audit.problems:
        return "<p>No problems found.</p>"
    lines = (
        f'<li class="{"severe" if problem.severe else ""}">{html.escape(_sentence(problem))}</li>'
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
        lines = "".join(f"<li>{breakable(line)}</li>" for line in problem.files[:SHOWN])
        return f"<ul>{lines}</ul>{_rest(problem)}"
    shown = (
        '<div class="example">' + "".join(_figure(audit, row) for row in rows[:TOGETHER]) + "</div>"
        for rows in problem.rows[:SHOWN]
    )
    return f'<div class="examples">{"".join(shown)}</div>{_rest(problem)}'


def _rest(problem: Problem) -> str:
    n_listed = len(problem.rows or problem.files)
    more = n_listed + problem.n_unlisted - SHOWN
    where = f"; audit.json has the first {n_listed}" if problem.n_unlisted else ", in audit.json"
    return f"<p>… and {more} more{where}.</p>" if more > 0 else ""


def _sentence(problem: Problem) -> str:
    return problem.text[:1].upper() + problem.text[1:]


def _figure(audit: Audit, row: int) -> str:
    item = audit.items[row]
    content = io.BytesIO()
    Image.fromarray(prepare(item.path.read_bytes(), THUMBNAIL)).save(content, "JPEG", quality=80)
    size = f"{item.facts.width} x {item.facts.height}" if item.facts else ""
    said: Sequence[str] = (audit.name(row), ", ".join(item.labels), f"{item.part or ''} {size}")
    caption = "<br>".join(html.escape(line) for line in said if line.strip())
    image = picture(content.getvalue(), "jpeg", audit.name(row))
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
