"""Settings from the text of a command line or a request, and values of Python as such text."""

from pydantic import ValidationError

from registry.errors import BadRequest
from registry.schema import explain
from training.presets import PRESETS
from training.settings import MOST_EPOCHS, Settings


def read_settings(given: dict[str, str]) -> Settings:
    """Settings from text, as a command line or a request gives it; lists are comma-separated.

    `recipe` names a preset; whatever else is given goes before what it sets.

    Raises:
        BadRequest: an unknown name, or a value that is not of its kind; names the field.
    """
    told = PRESETS.get(given.get("recipe", ""), {}) | given
    values = {name: _value(name, text) for name, text in told.items()}
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise BadRequest(f"settings: {explain(error)}") from error
    n_epochs = sum(settings.unfrozen_cycles)
    if n_epochs > MOST_EPOCHS:
        raise BadRequest(
            f"settings: cycles, cycle_len and cycle_mult make {n_epochs:.1e} epochs; the most are "
            f"{MOST_EPOCHS}, so lower one of them"
        )
    settings.turns()  # sizes that do not fit are refused
    return settings.model_copy(update={"dropout": _dropouts(settings, said="dropout" in told)})


def write_setting(value: object) -> str:
    """A value of Python as `read_settings` reads it: `(0.1, 1)` is "0.1,1", and None is empty."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


def _value(name: str, text: str) -> object:
    field = Settings.model_fields.get(name)
    if field is None:
        known = ", ".join(sorted(Settings.model_fields))
        raise BadRequest(f"no setting is called {name!r:.80}; there are: {known}")
    if str(field.annotation).startswith("tuple"):
        return [part for part in text.split(",") if part.strip()]
    texts = field.annotation is str or name == "recipe"
    return None if text == "" and not texts else text


def _dropouts(settings: Settings, *, said: bool) -> tuple[float, ...]:
    """One for each linear layer, as the 2018 library fills up its `ps`."""
    n_hidden, given = len(settings.hidden), settings.dropout
    if not said:
        return (0.25,) * n_hidden + (0.5,)
    if len(given) == 1:
        return given * (n_hidden + 1)
    if len(given) != n_hidden + 1:
        raise BadRequest(
            f"settings: {len(given)} dropout values for {n_hidden} hidden "
            f"layers; give one for all, or {n_hidden + 1}, one before each linear layer"
        )
    return given
