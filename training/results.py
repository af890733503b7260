"""What the steps of the recipe find out, collected on the way for the report."""

from dataclasses import asdict, dataclass, field
from typing import Any

from training.evaluation.suspects import LabelNoise
from training.fit.epoch import Epoch
from training.fit.keeping import State
from training.fit.lr_finder import RateSearch
from training.fit.schedule import Shares


@dataclass
class Results:
    """Empty when a training begins; each step adds what it finds."""

    searches: dict[str, RateSearch] = field(default_factory=dict)  # of the head; of all layers
    schedules: dict[str, Shares] = field(default_factory=dict)  # by stage
    n_batches: int = 0  # of all stages so far, as planned; a stage may occur more than once
    n_augmented_epochs: int = 0  # the same; each has draws of its own
    history: list[Epoch] = field(default_factory=list)
    snapshots: list[State] = field(default_factory=list)
    learning_curve: dict[int, list[float]] = field(default_factory=dict)  # images -> metric a draw
    label_noise: LabelNoise | None = None  # None: labels were not checked
    thresholds: tuple[float, ...] = ()  # of a multi-label task, once fitted
    facts: dict[str, str] = field(default_factory=dict)  # for the provenance

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training cannot find out again, because it skips the completed steps."""
        return {
            "searches": {name: asdict(search) for name, search in self.searches.items()},
            "history": [asdict(epoch) for epoch in self.history],
            "facts": dict(self.facts),
        }

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.searches.update({name: RateSearch(**it) for name, it in state["searches"].items()})
        self.history[:] = [Epoch(**row) for row in state["history"]]
        self.facts.update(state["facts"])
