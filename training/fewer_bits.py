"""Copies of the proven model in fewer bits, beside it in the bundle."""

from dataclasses import replace

import numpy as np

from registry.bundle import FILES
from training.bench import Bench
from training.bundling import Exported
from training.evaluate import Evaluation
from training.golden import evenly, golden_pixels
from training.publishing import with_variants
from training.quantize import RANGE_IMAGES, TRIAL_IMAGES
from training.variants import Proof, make_variant, tolerances

SHOWN_IMAGES = RANGE_IMAGES + TRIAL_IMAGES  # of the training part, to a quantiser
PROOF_IMAGES = 1000  # held-out ones that a variant is judged on


def add_variants(bench: Bench, exported: Exported, evaluation: Evaluation) -> Exported:
    """Beside the model are those copies of it in fewer bits that cost next to nothing.

    Held-out images decide; what is measured on training images are the ranges of the numbers.
    """
    bench.stages.begin("the same in fewer bits", 0)
    learnt, rows = bench.dataset.rows("train"), evaluation.rows
    chosen = np.random.default_rng(bench.settings.seed).permutation(len(learnt))[:SHOWN_IMAGES]
    shown = np.array(bench.decoded.pixels[np.sort(learnt[chosen])])
    places = evenly(len(rows), PROOF_IMAGES)
    proof = Proof(
        np.array(bench.decoded.pixels[rows[places]]),
        bench.dataset.targets[rows[places]],
        evaluation.plain[places],
        bench.dataset.task,
        bench.label_thresholds,
    )
    variants, tolerated, stories = {}, dict(exported.draft.tolerances), {}
    for precision in bench.settings.variants:
        path = exported.path.with_name(FILES[precision])
        made = make_variant(precision, exported.path, shown, proof, path)
        bench.stages.note(made.story)
        stories[f"variant_{precision}"] = made.story
        if made.variant:
            variants[precision] = made.variant
            tolerated |= tolerances(exported.path, path, golden_pixels(bench))
    draft = with_variants(exported.draft, variants, tolerated)
    return replace(exported, draft=draft, stories=stories)
