"""The record of trainings as Markdown."""

from collections.abc import Mapping, Sequence

from bench.ablations import CHANGES, TITLES
from bench.cells import PROTOCOLS
from bench.intervals import over_seeds, paired, wilson
from bench.record import Measures
from bench.results import Condition, markdown, verdicts
from bench.rounds import ROW as ROUNDS
from bench.rounds import speed_verdicts
from bench.runs import Machine, Run, Runs
from bench.trials import BASE, ablation_row, ablation_sizes
from bench.versus import FASTAI, UNTIMED, first_as_good, points_over, verdict
from bench.versus import ROW as VERSUS
from bench.versus import TITLES as VERSUS_TITLES

PROTOCOL_TEXT = (
    "2,624 photographs of solar cells (`elpv-dataset`). Each seed draws its own split and trains "
    "with that seed; in the blocked protocol, each seed holds out the next block. The predictions "
    "are those of the bundle's ONNX model. Values are means over seeds with their 95 % interval "
    "(Student's t; Wilson's for a single run), in percent. In the deitsch protocol, doubtful cells "
    "have the same weights in training. Settings were chosen in single runs on a part of the same "
    "photographs, so some of the cells held out here were seen then. No setting was chosen by "
    "these scores, with one exception: keeping 224 pixels took into account a result on the cells "
    "that deitsch holds out with seed 0. The cost is given in CPU seconds because other work "
    "shared the cores."
)
DEITSCH = 0.884  # weighted, of a VGG-19 (Deitsch et al. 2019, arXiv 1807.02894)
FASTAI_TEXT = (
    "Both train on the same 1,968 solar cells and are scored on the same 656 held-out cells (the "
    "deitsch split with seed 0; defective from 1/2 on), with the same ImageNet weights of "
    "EfficientNet-Lite0, on the same cores and with a cold cache. Times count from the start of "
    "the process. Values are means over seeds with their 95 % interval (Wilson's for a single "
    "run). Points are percentage points over the mean of fastai's runs (Welch's interval), and a "
    "share is that of the mean of its times. Test-time augmentation (TTA) is the mean over five "
    "views of each image, generated as in the server, for Unfreeze, and `tta()` for fastai. The "
    "head on activations is trained without augmented views, so it must match both answers of "
    "fastai with a single view. The full recipe was also run once with 160 pixels and 14 epochs; "
    "224 pixels and 10 epochs were kept because that run was less accurate on these held-out "
    "cells. Progressive resizing, with more epochs in the same time, was chosen on cells that all "
    "of these train on."
)
UNTIMED_TEXT = (
    "The same comparison in runs that shared the cores with other work, so their times are not "
    "reported:"
)
SPEED_TEXT = (
    "Mean over rounds with its 95 % interval; each round runs in its own process. The head has 512 "
    "hidden units and trains in batches of 64 (32 with modern). Its three epochs learn from random "
    "activations; their time includes what follows each of them: computing exact batch norm "
    "statistics and evaluating 2,000 held-out images."
)
ABLATION_TEXT = (
    "492 of the 1,968 solar cells that deitsch trains on with seed 0 are held out, the same ones "
    "in every run; the seed is that of training. The first row is the base, the other rows are "
    "mean differences from it, paired by seed, with their 95 % interval (Student's t). CPU seconds "
    "are compared only if both runs used the same kind of processor."
)
HELD_OUT = 656
Seeds = Mapping[int, Measures]
Rows = Mapping[str, Sequence[Run]]  # title -> its runs
CPU_S = "cpu_s"
DIFFERENCES = (  # measure, its heading, scale, digits
    ("accuracy", "accuracy, points", 100, 1),
    ("accuracy_tta", "with TTA, points", 100, 1),
    ("log_loss", "log loss", 1, 3),
    ("log_loss_tta", "log loss with TTA", 1, 3),
    (CPU_S, "CPU s", 1, 0),
)


def document(runs: Runs) -> str:
    """All tables, each with the processors that it was measured on."""
    parts = [versions(runs)]
    if shown := beside_fastai(runs):
        parts.append(f"### Comparison with fastai\n\n{FASTAI_TEXT}\n\n{shown}")
    if ROUNDS in runs.rows:
        shown = f"{verdicts(speed_verdicts(runs))}\n\n{processors(runs, _series(runs, ROUNDS))}"
        parts.append(f"### Speed\n\n{SPEED_TEXT}\n\n{shown}")
    if shown := protocols(runs):
        parts.append(f"### Solar cells\n\n{PROTOCOL_TEXT}\n\n{shown}")
    for size in ablation_sizes(runs):
        parts.append(
            f"### Ablations at {size} pixels, one change at a time\n\n{ABLATION_TEXT}\n\n"
            f"{ablations(runs, size)}"
        )
    return "\n\n".join(parts)


def beside_fastai(runs: Runs) -> str:
    """Seconds and accuracies of fastai and of each of our settings, and their conditions."""
    fastai = runs_of_fastai(runs)
    head = ["", "seeds", "trained after, s", "finished after, s", "accuracy", "with TTA"]
    lines = [[*head, "as accurate as fastai after, s"]]
    found: dict[str, list[Measures]] = {}
    for name, _, seeds in runs.series(VERSUS):
        ran = found[name] = list(seeds.values())
        until = [first_as_good(one, fastai) for one in ran] if fastai else []
        reached = [one for one in until if one is not None]
        lines.append(
            [
                VERSUS_TITLES.get(name, name),
                str(len(ran)),
                over_seeds([one["fitted_s"] for one in ran]).show(0),
                over_seeds([one["seconds"] for one in ran]).show(0),
                _share(ran, "accuracy", HELD_OUT),
                _share(ran, "accuracy_tta", HELD_OUT),
                over_seeds(reached).show(0) if reached and len(reached) == len(until) else "",
            ]
        )
    if len(lines) == 1:
        return ""
    judged = verdict(fastai, found) if fastai else []
    notes = [
        f"{VERSUS_TITLES.get(name, name)}: {_in_words(settings)}."
        for name, settings, _ in runs.series(VERSUS)
    ]
    where = processors(runs, _series(runs, VERSUS))
    parts = [
        markdown(lines),
        verdicts(judged) if judged else "",
        where,
        "\n".join(notes),
    ]
    return "\n\n".join(filter(None, [*parts, untimed(runs)]))


def runs_of_fastai(runs: Runs) -> list[Measures]:
    """fastai's runs, by seed."""
    return [
        seeds[seed]
        for name, _, seeds in runs.series(VERSUS)
        if name == FASTAI
        for seed in sorted(seeds)
    ]


def untimed(runs: Runs) -> str:
    """Accuracies of the same comparison, run while the machine was not quiet enough for timing."""
    fastai = runs_of_fastai(runs)
    lines = [["", "seeds", "accuracy", "with TTA", "points over fastai", "with TTA"]]
    notes = []
    for name, settings, seeds in runs.series(UNTIMED):
        ran, measures = list(seeds.values()), ("accuracy", "accuracy_tta")
        shares = [_share(ran, measure, HELD_OUT) for measure in measures]
        gains = [
            points_over(fastai, ran, measure, measure).show(1, sign=True) if fastai else ""
            for measure in measures
        ]
        title = VERSUS_TITLES.get(name, name)
        lines.append([title, str(len(ran)), *shares, *gains])
        notes.append(f"{title}: {_in_words(settings)}.")
    where = processors(runs, _series(runs, UNTIMED))
    return "\n\n".join([UNTIMED_TEXT, markdown(lines), where, "\n".join(notes)]) if notes else ""


def versions(runs: Runs) -> str:
    """The versions that the runs used, each set once."""
    shown = dict.fromkeys(
        ", ".join(
            [f"Python {one['python']}", *(f"{name} {n}" for name, n in one["versions"].items())]
        )
        for one in runs.machines
    )
    return f"{'; '.join(shown)}. Written by `benchmarks/training.py show --write`."


def processors(runs: Runs, rows: Rows) -> str:
    """Which processors the rows of a table were measured on; of a row on several, which seeds."""
    found: dict[str, list[str]] = {}
    for title, some in rows.items():
        seeds: dict[str, list[str]] = {}
        for run in some:
            seeds.setdefault(_processor(runs.machine(run)), []).append(str(run.seed))
        for processor, its in seeds.items():
            many = "s" * (len(its) > 1)
            one_of_several = f" (seed{many} {', '.join(its)})" if len(seeds) > 1 else ""
            found.setdefault(processor, []).append(title + one_of_several)
    if len(found) == 1:
        return f"All rows were measured on: {next(iter(found))}."
    lines = [f"- {processor}: {'; '.join(titles)}" for processor, titles in found.items()]
    return "\n".join(["Rows by processor:", "", *lines])


def other_commits(runs: Runs, base: Sequence[Run], changes: Rows) -> str:
    """How many changes ran at another commit than the base with the same seed; empty if none."""
    at = {run.seed: runs.machine(run)["commit"] for run in base}
    n = sum(
        any(run.seed in at and runs.machine(run)["commit"] != at[run.seed] for run in some)
        for some in changes.values()
    )
    return (
        f"{n} of the {len(changes)} changes ran at another commit than the base, so that changes "
        "of the code may be part of their differences."
        if n
        else ""
    )


def ablations(runs: Runs, size: int) -> str:
    """A table for each base: the effect of each change of its settings, paired by seed."""
    row = ablation_row(size)
    bases = [(settings, seeds) for name, settings, seeds in runs.series(row) if name == BASE]
    return "\n\n".join(ablation(runs, row, base, seeds) for base, seeds in bases)


def ablation(runs: Runs, row: str, base: Mapping[str, str], seeds: Seeds) -> str:
    """The base's means, and below them the differences from it with the same seeds."""
    lines = [["", "seeds", *(heading for _, heading, _, _ in DIFFERENCES)]]
    means = [
        over_seeds([one[measure] for one in seeds.values()]).show(digits, scale)
        for measure, _, scale, digits in DIFFERENCES
    ]
    lines.append([BASE, str(len(seeds)), *means])
    of_base = [Run(row, BASE, seed, base) for seed in seeds]
    changes: dict[str, list[Run]] = {}
    for name, change in CHANGES.items():
        settings = {**base, **change}
        found = runs.of(row, name, settings)
        both = sorted(set(found) & set(seeds))
        if not both:
            continue
        title = TITLES.get(name, name)
        changes[title] = [Run(row, name, seed, settings) for seed in both]
        alike = all(
            _processor(runs.machine(run))
            == _processor(runs.machine(Run(row, BASE, run.seed, base)))
            for run in changes[title]
        )
        cells = [
            paired(
                [found[seed][measure] for seed in both],
                [seeds[seed][measure] for seed in both],
            ).show(digits, scale, sign=True)
            if alike or measure != CPU_S
            else ""
            for measure, _, scale, digits in DIFFERENCES
        ]
        lines.append([title, str(len(both)), *cells])
    where = processors(runs, {BASE: of_base, **changes})
    parts = [
        f"Base: {_in_words(base)}.",
        markdown(lines),
        where,
        other_commits(runs, of_base, changes),
    ]
    return "\n\n".join(filter(None, parts))


def protocols(runs: Runs) -> str:
    """The accuracy of every recipe with every protocol."""
    head = ["protocol", "recipe", "seeds", "held out", "accuracy", "with TTA"]
    lines = [[*head, "weighted", "weighted, with TTA", "CPU s"]]
    measured: dict[str, list[Run]] = {}
    for row, protocol in PROTOCOLS.items():
        for name, settings, seeds in runs.series(row):
            ran = list(seeds.values())
            measured.setdefault(f"{row}, {name}", []).extend(
                Run(row, name, seed, settings) for seed in sorted(seeds)
            )
            n = int(ran[0]["held_out"])
            weighted = [_share(ran, "weighted", n), _share(ran, "weighted_tta", n)]
            lines.append(
                [
                    f"{row}: {protocol.what}",
                    name,
                    str(len(ran)),
                    str(n),
                    _share(ran, "accuracy", n),
                    _share(ran, "accuracy_tta", n),
                    *(weighted if row == "deitsch" else ["", ""]),
                    over_seeds([one["cpu_s"] for one in ran]).show(0),
                ]
            )
    if len(lines) == 1:
        return ""
    judged = [
        beside_deitsch(f"{name}{views}", [one[measure] for one in seeds.values()])
        for name, _, seeds in runs.series("deitsch")
        for views, measure in (("", "weighted"), (", with TTA", "weighted_tta"))
    ]
    shown = [verdicts(judged)] if judged else []
    return "\n\n".join([markdown(lines), *shown, processors(runs, measured)])


def beside_deitsch(name: str, weighted: Sequence[float]) -> Condition:
    """The condition on the weighted accuracy, averaged over seeds."""
    mean, bound = over_seeds(weighted), f"at least {100 * DEITSCH:g}"
    return Condition(f"deitsch, weighted: {name}", bound, mean.show(1, 100), mean.mean >= DEITSCH)


def _share(ran: Sequence[Measures], measure: str, n: int) -> str:
    """Percent over seeds with Student's interval; for a single run with Wilson's."""
    values = [one[measure] for one in ran]
    interval = over_seeds(values) if len(values) > 1 else wilson(values[0], n)
    return interval.show(1, 100)


def _series(runs: Runs, row: str) -> Rows:
    """The runs of a row by their titles."""
    found: dict[str, list[Run]] = {}
    for name, settings, seeds in runs.series(row):
        some = [Run(row, name, seed, settings) for seed in sorted(seeds)]
        found.setdefault(VERSUS_TITLES.get(name, name), []).extend(some)
    return found


def _processor(machine: Machine) -> str:
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    return f"{machine['cpu']}, {machine['cores']} core{'s' * (machine['cores'] > 1)}{gpu}"


def _in_words(settings: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items() if value) or "defaults"
