"""What a notebook says by hand, instead of the settings: checked, and told in the provenance."""

import math
from dataclasses import replace
from numbers import Real

from pydantic import ValidationError

from registry.errors import BadRequest
from registry.record import explain
from training.bench import Bench
from training.reading_settings import write_setting
from training.settings import Settings


def with_settings(bench: Bench, **changed: object) -> Bench:
    """The same bench with these settings, unless they are None; the provenance says so.
    Steps by hand are steps at one size.

    Raises:
        BadRequest: a value is not of its kind.
    """
    said = {name: value for name, value in changed.items() if value is not None}
    try:
        one_size: dict[str, object] = {"sizes": (), "size_epochs": ()}
        settings = Settings.model_validate(bench.settings.model_dump() | one_size | said)
    except ValidationError as error:
        raise BadRequest(f"settings: {explain(error)}") from error
    if said:
        before = [bench.facts["by_hand"]] if "by_hand" in bench.facts else []
        now = [f"{name}={write_setting(value)}" for name, value in said.items()]
        bench.facts["by_hand"] = ", ".join(before + now)
    return replace(bench, settings=settings, turn=settings.turns()[0])


def use_rate(bench: Bench, stage: str, rate: float) -> None:
    """The report marks the rate that is used, which need not be the one suggested.

    Raises:
        BadRequest: it is no rate; `slice(low, high)`, for example, is said otherwise here.
    """
    if not (isinstance(rate, Real) and 0 < rate < math.inf):
        raise BadRequest(
            f"a rate of {rate!r:.80}: say one number above 0, that of the head; where all "
            "layers learn, group_rates=(0.01, 0.1, 1) gives the others their shares of it"
        )
    search = bench.searches.get(stage)
    if search and search.suggestion != rate:
        bench.searches[stage] = replace(search, suggestion=rate, reason="chosen by hand")


def refuse_none(number: int, name: str) -> None:
    """Raises BadRequest if nothing would be learnt."""
    if not number:
        raise BadRequest(
            f"{name}=0: nothing would be learnt; say {name}, as the settings have none"
        )
