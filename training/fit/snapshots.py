"""Snapshot ensembles (Huang et al. 2017, arXiv 1704.00109): a network kept at each cycle's end."""

import numpy as np

from registry.counted import counted
from training.bench import Bench
from training.evaluation.evaluate import measure, predict
from training.fit.keeping import copy_state


def average_snapshots(bench: Bench) -> None:
    """Saves the snapshots, if any, as cycle-1.safetensors and so on in the run's folder, and
    evaluates their mean prediction on the held-out images. The network stays as it was."""
    if not bench.results.snapshots:
        return
    kept, dataset, rows = copy_state(bench.network), bench.dataset, bench.rows("valid")
    pixels = bench.decoded.pixels[rows]
    answers = []
    for number, state in enumerate(bench.results.snapshots, start=1):
        bench.network.load_state_dict(state)
        answers.append(predict(bench.network, pixels, dataset.task))
        bench.save(f"cycle-{number}.safetensors")
    bench.network.load_state_dict(kept)
    mean = np.stack(answers).mean(axis=0)
    measures = measure(mean, dataset.targets[rows], dataset.task, beta=bench.settings.beta)
    scored = f"{counted(len(answers), 'answer')} averaged: {measures.metric} {measures.value:.4f}"
    bench.note("snapshots", f"{scored}, log loss {measures.log_loss:.4f}")
