"""How the labels of two versions differ, for people."""

from collections.abc import Sequence

SHOWN = 3  # labels named; of more, only the number is given


def label_changes(before: Sequence[str], after: Sequence[str]) -> str:
    """What `after` changes about `before`; empty if both are the same labels in the same order.

    Columns of probabilities have this order, so it matters to whoever reads them by position.
    """
    places = {label: place for place, label in enumerate(before)}
    new = [label for label in after if label not in places]
    gone = sorted(places.keys() - after, key=places.__getitem__)
    moved = any(places.get(label, place) != place for place, label in enumerate(after))
    if not new and not gone:
        return "the same labels in another order" if moved else ""
    changes = [f"new {_named(new)}"] * bool(new) + [f"gone {_named(gone)}"] * bool(gone)
    return "; ".join(changes + ["others have moved"] * moved)


def label_note(version: int, before: Sequence[str], after: Sequence[str]) -> str:
    """What to say where a version with the labels `after` takes the place of `version`; empty if
    nothing changes for whoever reads probabilities."""
    changes = label_changes(before, after)
    reread = "whoever reads probabilities by position must read the labels again"
    return f"its labels differ from those of version {version} ({changes}); {reread}" * bool(
        changes
    )


def _named(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
    return f"{', '.join(map(repr, labels[:SHOWN]))}{more}"
