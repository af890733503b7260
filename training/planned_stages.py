"""The stages that a training will go through: what its progress is counted by."""

from collections.abc import Iterator

from training.settings import Settings


def planned_stages(settings: Settings) -> list[str]:
    """The names of all stages of `training.recipe.train`, in order, as its steps begin them."""
    return [*_before_learning(settings), *_learning(settings), *_afterwards(settings)]


def _before_learning(settings: Settings) -> Iterator[str]:
    yield "audit and split"
    yield "decode the images"
    if len(settings.size_phases()) > 1:
        yield "decode at the other sizes"


def _learning(settings: Settings) -> Iterator[str]:
    yield "precompute activations"
    if settings.label_noise:
        yield "check the labels"
    yield "find the learning rate"
    yield "head on activations"
    if settings.learning_curve:
        yield "learning curve"
    rate_is_known = bool(settings.unfrozen_learning_rate)
    for phase in settings.size_phases():
        if phase.head_epochs:
            yield "head with augmentation" + phase.suffix
        if phase.epochs:
            if not rate_is_known:
                yield "unfreeze, find the learning rate"
                rate_is_known = True
            yield "all layers" + phase.suffix


def _afterwards(settings: Settings) -> Iterator[str]:
    if settings.calibrate:
        yield "calibrate"
    yield "export and verify"
    yield "evaluate with and without views"
    if settings.variants:
        yield "reduced precision"
    yield "compare with the promoted version"
