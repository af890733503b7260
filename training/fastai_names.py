"""fastai's names for the steps, and ours; docs/from-fastai.md has more."""

from collections.abc import Sequence

from registry.did_you_mean import did_you_mean

EVALUATE = "evaluate(), which predicts with one view and with several"
STEPS = {
    "dls": "bench.dataset; the classes are labels",
    "export": "publish(registry, model)",
    "fine_tune": "fit(); the settings say how long",
    "fit_one_cycle": "fit_unfrozen(rate, cycles=1, cycle_len=epochs), with schedule=one_cycle",
    "freeze": "fit_head(activations, rate), which trains nothing else",
    "freeze_to": "fit_unfrozen(rate), with the setting frozen_groups=1",
    "get_preds": EVALUATE,
    "lr_find": "search_head(activations) or search_unfrozen(), which plots.learning_rate draws",
    "model": "bench.network",
    "plot_loss": "history, which plots.losses draws",
    "predict": "classify(file)",
    "recorder": "history, which plots.losses draws",
    "show_results": 'evaluate(), and looking.gallery(learner, evaluation, "most_correct")',
    "tta": EVALUATE,
    "unfreeze": "fit_unfrozen(rate), which trains every layer",
    "validate": EVALUATE,
}


def meant(name: str, known: Sequence[str]) -> str:
    """Why a learner has no `name`, and what may have been meant."""
    said = f"; here it is {STEPS[name]}" if name in STEPS else did_you_mean(name, known)
    return f"a Learner has no {name!r}{said}"
