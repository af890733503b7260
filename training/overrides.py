"""Values that a notebook passes instead of the settings, step by step: checked, and noted in the
provenance."""

import math
from dataclasses import replace
from numbers import Real

import numpy as np
from pydantic import ValidationError

from registry.counted import counted
from registry.errors import BadRequest
from registry.quoted import quoted
from registry.record import explain
from training.bench import Bench
from training.reading_settings import write_setting
from training.settings import Settings

STEPS = "steps"  # in the provenance: that the settings do not say all
BY_HAND = "chosen by hand"  # the reason for a rate that is not the one suggested


def with_settings(bench: Bench, **changed: object) -> Bench:
    """The same bench with these settings, except those that are None, for a single step; noted in
    the provenance. Single steps are at one size.

    Raises:
        BadRequest: a value is not valid, or images would be set apart that were learnt from.
    """
    said = {name: value for name, value in changed.items() if value is not None}
    try:
        one_size: dict[str, object] = {"sizes": (), "size_epochs": ()}
        settings = Settings.model_validate(bench.settings.model_dump() | one_size | said)
    except ValidationError as error:
        raise BadRequest(f"settings: {explain(error)}") from error
    single = replace(bench, settings=settings, phase=settings.size_phases()[0])
    n_lost = len(np.setdiff1d(bench.rows("train"), single.rows("train")))
    if bench.results.history and n_lost:
        raise BadRequest(
            f"{counted(n_lost, 'image')} would be set apart to compare epochs, after they were "
            "learnt from; give cycles and cycle_len to read_images(settings=…) instead"
        )
    bench.results.facts[STEPS] = "taken one by one"
    if said:
        before = [bench.results.facts["by_hand"]] if "by_hand" in bench.results.facts else []
        now = [f"{name}={write_setting(value)}" for name, value in said.items()]
        bench.results.facts["by_hand"] = ", ".join(before + now)
    return single


def use_rate(bench: Bench, stage: str, rate: float) -> None:
    """Has the report mark the learning rate that is used, suggested or not.

    Raises:
        BadRequest: it is not a number above 0, but for example fastai's `slice(low, high)`.
    """
    if not (isinstance(rate, Real) and 0 < rate < math.inf):
        raise BadRequest(
            f"a rate of {quoted(rate)}: give one number above 0, that of the head; where all "
            "layers learn, group_rates=(0.01, 0.1, 1) sets the others' shares of it"
        )
    search = bench.results.searches.get(stage)
    if search and search.suggestion != rate:
        bench.results.searches[stage] = replace(search, suggestion=rate, reason=BY_HAND)


def advice_on_rate(bench: Bench, stage: str, rate: float) -> str:
    """What to do if the stage diverges at `rate`, by where that comes from."""
    settings, search = bench.settings, bench.results.searches.get(stage)
    if stage == "head":
        name, given = "learning_rate", settings.learning_rate
    else:
        name, given = "unfrozen_learning_rate", settings.unfrozen_learning_rate
    if rate == given:
        return f"set a lower {name}"
    if search and search.reason != BY_HAND and search.suggestion == rate:
        return f"the learning-rate finder suggested {rate:.1e}; set {name} to a lower rate"
    return "pass a lower rate"


def refuse_none(number: int, name: str) -> None:
    """Raises BadRequest if there would be nothing to train."""
    if not number:
        raise BadRequest(
            f"{name}=0: there is nothing to train; pass {name}, it is 0 in the settings"
        )
