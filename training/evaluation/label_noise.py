"""Finds label errors: confident learning (Northcutt et al. 2021, arXiv 1911.00068).

Linear heads on the frozen backbone's features predict every image out of fold. Images whose label
they disagree with are suspects, ordered by the margin between the two labels. How many labels are
wrong is estimated from the images that are predicted as confidently as the other class's own. No
image is deleted, and training is not affected.

Our own code, because the library of that paper is under the AGPL.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from registry.bundle import Task
from registry.images import Float32Array
from training.evaluation.suspects import Confusion, LabelNoise, Suspect

FOLDS = 5
COMPONENTS = 256  # principal components; keeps ten thousand images to seconds
STRENGTH = 0.1  # scikit-learn's C: strong regularisation, as features often outnumber images
MOST_ROUNDS = 300
TRUSTED = 0.5  # share of the labels that heads must agree with to be trusted about the others
# Images times labels: each iteration of each fold's fit processes so many numbers, and several
# arrays have as many of 8 bytes. Half a million took a second of one core, for separable classes.
MOST_ANSWERS = 5_000_000
MOST_FEATURES = 2**28  # images times features: 1 GiB, of which there are three while it is reduced

Float64Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def too_many(n_images: int, n_features: int, n_labels: int) -> str:
    """Why labels are not checked, if it would take more than minutes or a few GiB; else empty."""
    if n_images * n_labels <= MOST_ANSWERS and n_images * n_features <= MOST_FEATURES:
        return ""
    return (
        f"labels were not checked for errors: {n_images} images with {n_features} features and "
        f"{n_labels} labels are too many; images times labels may be at most {MOST_ANSWERS:,} and "
        f"images times features {MOST_FEATURES:,}"
    )


def find_suspects(
    features: Float32Array,
    targets: Float32Array,
    rows: Ints,
    groups: Sequence[str],
    labels: Sequence[str],
    task: Task,
    seed: int,
) -> LabelNoise:
    """Checks the labels of images against out-of-fold predictions.

    Args:
        features: [n,d], of the frozen backbone.
        targets: [n,classes]; each label of a multi-label task is checked by itself.
        rows: of the data set, [n].
        groups: of each image; a group stays in one fold.
    """
    reduced = reduce(features)
    units = np.unique(np.asarray(groups), return_inverse=True)[1]
    if task == "single":
        return _suspects_of(reduced, targets.argmax(axis=1), rows, units, labels, seed)
    each = [
        _suspects_of(reduced, there.astype(np.int64), rows, units, (f"not {label}", label), seed)
        for label, there in zip(labels, targets.T, strict=True)
    ]
    return LabelNoise(
        max(one.images for one in each),
        sum(one.expected for one in each),
        _ordered(suspect for one in each for suspect in one.suspects),
        _frequent(confusion for one in each for confusion in one.confusions),
        tuple(label for label, one in zip(labels, each, strict=True) if not one.images),
    )


def reduce(features: Float32Array) -> Float32Array:
    """[n,d] -> [n,≤256]: the principal components of standardised features, scaled as a whole to
    variance 1; unsupervised.

    They are not whitened: with few images the head would fit noise (on 300 solar cells its accuracy
    was 66 % instead of 80 %).
    """
    steps = make_pipeline(StandardScaler(), PCA(min(COMPONENTS, *features.shape), random_state=0))
    with np.errstate(invalid="ignore"):  # equal images have no variance to explain
        found = steps.fit_transform(features)
    return np.asarray(found / max(found.std(), 1e-12), np.float32)


def out_of_fold(features: Float32Array, given: Ints, groups: Ints, seed: int) -> Float64Array:
    """Probabilities [n,classes], each image's by a head that was trained on the other folds.

    Args:
        given: class of each image, [n]; every class has as many groups as there are folds.
    """
    probabilities = np.zeros((len(given), int(given.max()) + 1))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for learnt, left_out in folds.split(features, given, groups):
        head = LogisticRegression(C=STRENGTH, max_iter=MOST_ROUNDS)
        head.fit(features[learnt], given[learnt])
        probabilities[np.ix_(left_out, head.classes_)] = head.predict_proba(features[left_out])
    return probabilities


def better_than_chance(said: Ints, given: Ints) -> bool:
    """Whether predictions agree with the labels clearly more often than the commonest label does,
    by two standard deviations, and with at least half of them. Otherwise the heads are too weak to
    question any label."""
    commonest = float(np.bincount(given).max() / len(given))
    spread = np.sqrt(commonest * (1 - commonest) / len(given))
    agreement = (said == given).mean()
    return bool(agreement > commonest + 2 * spread and agreement >= TRUSTED)


def confident_classes(probabilities: Float64Array, given: Ints) -> Ints:
    """[n]: the class that each image is confidently predicted as, -1 for none: the most probable of
    those whose probability is at least its mean over the images labelled so (eq. 1 and 2)."""
    n_classes = probabilities.shape[1]
    usual = np.array([probabilities[given == each, each].mean() for each in range(n_classes)])
    sure = probabilities >= usual
    return np.where(sure.any(axis=1), np.where(sure, probabilities, -1).argmax(axis=1), -1)


def joint(given: Ints, confident: Ints, n_classes: int) -> Float64Array:
    """[classes,classes]: of the images labelled i, the share that seems to be j."""
    counts = np.zeros((n_classes, n_classes))
    np.add.at(counts, (given[confident >= 0], confident[confident >= 0]), 1)
    unseen = counts.sum(axis=1) == 0
    counts[unseen, unseen] = 1  # none is confidently predicted: no evidence of errors
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def _suspects_of(
    features: Float32Array, given: Ints, rows: Ints, groups: Ints, labels: Sequence[str], seed: int
) -> LabelNoise:
    n_groups = [len(np.unique(groups[given == each])) for each in range(len(labels))]
    known = [each for each, n in enumerate(n_groups) if n >= FOLDS]
    unknown = tuple(label for label, n in zip(labels, n_groups, strict=True) if n < FOLDS)
    if len(known) < 2:
        return LabelNoise(0, 0, (), (), tuple(labels))
    kept, names = np.isin(given, known), [labels[each] for each in known]
    features, rows, groups = features[kept], rows[kept], groups[kept]
    given = np.searchsorted(known, given[kept])
    probabilities = out_of_fold(features, given, groups, seed)
    said, places = probabilities.argmax(axis=1), np.arange(len(given))
    if not better_than_chance(said, given):
        return LabelNoise(0, 0, (), (), tuple(labels))
    shares = joint(given, confident_classes(probabilities, given), len(known))
    margins = probabilities[places, given] - probabilities[places, said]
    suspects = [
        Suspect(
            int(rows[place]),
            names[given[place]],
            names[said[place]],
            float(probabilities[place, given[place]]),
            float(margins[place]),
        )
        for place in np.flatnonzero(margins < 0)
    ]
    found = Counter((each.given, each.suggested) for each in suspects)
    confusions = [
        Confusion(names[one], names[another], found[names[one], names[another]], float(share))
        for (one, another), share in np.ndenumerate(shares)
        if one != another and (share or found[names[one], names[another]])
    ]
    expected = round(float((1 - shares.diagonal())[given].sum()))
    return LabelNoise(len(given), expected, _ordered(suspects), _frequent(confusions), unknown)


def _ordered(suspects: Iterable[Suspect]) -> tuple[Suspect, ...]:
    return tuple(sorted(suspects, key=lambda suspect: suspect.margin))


def _frequent(confusions: Iterable[Confusion]) -> tuple[Confusion, ...]:
    return tuple(sorted(confusions, key=lambda confusion: -confusion.images))
