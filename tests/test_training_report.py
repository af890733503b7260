"""The pictures and the page of a report, drawn from plain values."""

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import findings as made
import numpy as np
import pytest
from PIL import Image

from training import plots
from training.data.audit import Audit
from training.data.decoded import Decoded
from training.data.items import Facts, Item
from training.evaluation.calibration import Bin
from training.evaluation.evaluate import measure
from training.evaluation.suspects import Confusion, LabelNoise, Suspect, describe
from training.fit.epoch import Epoch
from training.fit.lr_finder import RateSearch
from training.report.answer_sections import images as answer_images
from training.report.answer_sections import results, views
from training.report.audit_pictures import draw_audit
from training.report.build import collect_tiles, write_report
from training.report.findings import Findings
from training.report.picture import Picture
from training.report.training_sections import doubts
from training.report.words import in_words
from training.tiles import Tile, gallery, images


def shown(picture: Picture) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """What a notebook would show, [h,w,3]."""
    with Image.open(io.BytesIO(picture._repr_png_())) as image:
        return np.asarray(image.convert("RGB"))


def noise(n: int, size: int = 8) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


SEARCH = made.SEARCH
HISTORY = [Epoch(stage, 0.5, 0.6, 0.9, 1, 1) for stage in ("head", "head", "all layers")]


PICTURES = {
    "a rate": lambda: plots.learning_rate(SEARCH, "head"),
    "a search of one step": lambda: plots.learning_rate(RateSearch([1e-5], [2.0], 1e-5, "")),
    "losses": lambda: plots.losses(HISTORY, overfit_from=2),
    "losses of one epoch": lambda: plots.losses(HISTORY[:1]),
    "a schedule": lambda: plots.schedule({"head": np.ones(10), "all layers": np.ones(1)}),
    "two classes": lambda: plots.confusion(np.array([[5, 1], [0, 4]]), ["dark", "light"]),
    "120 classes": lambda: plots.confusion(np.eye(120, dtype=np.int64), list(map(str, range(120)))),
    "a gallery": lambda: gallery([Tile(noise(1)[0], ("a.jpg", "is dark"))]),
    "overlays": lambda: gallery([Tile(one, ("a.jpg",), True, one) for one in noise(5)]),
    "images": lambda: images(noise(8)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_shows_itself_in_a_notebook(name: str):
    seen = shown(PICTURES[name]())
    assert seen.shape[1] < 2000
    assert 0.001 < (seen.mean(axis=2) < 200).mean() < 0.9


def test_dollar_signs_of_names_are_no_mathematics():
    names = ("a$_$b", "$x^$")
    items = tuple(Item(Path(f"{name}.png"), (name,), "train") for name in names)
    bars, _ = draw_audit(Audit(Path(), items, ()), Picture).values()
    for picture in (
        plots.confusion(np.eye(2, dtype=np.int64), names),
        gallery([Tile(noise(1)[0], names)]),
        bars,
    ):
        assert (shown(picture) < 200).any()


@pytest.mark.parametrize("largest", [300, 2_100, 40_000])
def test_sizes_that_range_widely_have_ticks_that_do_not_collide(largest: int):
    sides = (21, 100, largest)
    items = [
        Item(Path(f"{side}.png"), ("a",), None, facts=Facts(side, side, "L", "PNG", 9))
        for side in sides
    ]
    _, sizes = draw_audit(Audit(Path(), tuple(items), ()), Picture).values()
    shown(sizes)
    (axis,) = sizes.axes
    low, high = axis.get_xlim()
    ticks = [
        label.get_window_extent()
        for place, label in zip(axis.get_xticks(), axis.get_xticklabels(), strict=True)
        if low <= place <= high
    ]
    assert len(ticks) > 1
    assert all(one.x1 < another.x0 for one, another in pairwise(ticks))


def test_a_marker_at_the_edge_of_the_calibration_plot_is_whole():
    picture = plots.reliability([Bin(0.9, 1.0, 50, 1.0, 1.0)])
    assert not any(marker.get_clip_on() for marker in picture.axes[0].collections)


def test_nothing_of_a_confusion_matrix_is_cut_off():
    picture = plots.confusion(np.array([[137, 68], [15, 436]]), ["defective", "functional"])
    picture.png()
    (axis,) = picture.axes
    for label in (axis.xaxis.label, axis.yaxis.label):
        place = label.get_window_extent()
        assert min(place.x0, place.y0) > 0


@pytest.mark.parametrize("name", ["losses of one epoch", "a schedule"])
def test_epochs_and_batches_are_whole_numbers(name: str):
    picture = PICTURES[name]()
    (axis,) = picture.axes
    assert all(float(tick).is_integer() for tick in axis.get_xticks())


@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_long_names_of_classes_do_not_run_into_one_another(n: int):
    picture = plots.confusion(
        np.eye(n, dtype=np.int64), [f"a rather long name {i}" for i in range(n)]
    )
    picture.png()
    (axis,) = picture.axes
    places = [label.get_window_extent() for label in axis.get_xticklabels()]
    assert all(one.x1 <= other.x0 for one, other in pairwise(places))


def test_the_rate_chosen_is_marked_on_its_curve():
    red = [(plots.BLUE, False), (plots.RED, True)]
    (axis,) = plots.learning_rate(SEARCH).axes
    lines = {line.get_color(): list(line.get_xdata()) for line in axis.lines}
    assert [(colour, set(lines[colour]) == {1e-3}) for colour, _ in red] == red


def test_overfitting_is_marked_at_its_epoch():
    (plain,), (marked,) = plots.losses(HISTORY).axes, plots.losses(HISTORY, overfit_from=2).axes
    assert len(marked.lines) == len(plain.lines) + 1
    assert list(marked.lines[-1].get_xdata()) == [2, 2]


MANY = 120
Written = dict[str, tuple[str, dict]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The page and the JSON of some trainings."""
    kinds: dict[str, Callable[[], tuple[Findings, Decoded]]] = {
        "little": lambda: made.findings(2, n_views=1, looked=None, schedules={}),
        "everything": lambda: made.everything(MANY, 480),
        "several": lambda: made.several(5, 120),
    }
    told = {}
    for name, make in kinds.items():
        folder = tmp_path_factory.mktemp(name)
        write_report(*make(), folder)
        text = (folder / "report.json").read_text(encoding="utf-8")
        told[name] = (folder / "index.html").read_text(encoding="utf-8"), json.loads(text)
    return told


def headings(page: str) -> list[str]:
    return re.findall("<h2>(.*?)</h2>", page)


def test_a_section_without_content_is_left_out(written: Written):
    shared = ["Results", "Mistakes", "Classes", "Images to look at", "Calibration"]
    story = ["Training", "Data", "Provenance"]
    assert headings(written["little"][0]) == shared + story
    assert headings(written["everything"][0]) == [
        *shared,
        "Prediction sets",
        *story[:2],
        "Doubted labels",
        story[2],
    ]


@pytest.mark.parametrize("name", ["little", "everything", "several"])
def test_a_page_needs_nothing_else_and_every_entry_of_its_contents_leads_somewhere(
    written: Written, name: str
):
    page, _ = written[name]
    assert not re.findall("https?:|<script|<link", page)
    entries = re.findall('<a href="#(.*?)">', page)
    assert entries == re.findall('<section id="(.*?)">', page)
    assert len(entries) == len(headings(page))


class Outline(HTMLParser):
    """Tags that are open, and what images say to those who do not see them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.alts: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.alts.append(dict(attrs).get("alt"))
        elif tag not in ("meta", "br", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", ["little", "everything", "several"])
def test_tags_are_closed_in_order_and_every_picture_has_words(written: Written, name: str):
    outline = Outline()
    outline.feed(written[name][0])
    assert outline.open == []
    assert outline.alts
    assert all(outline.alts)


def test_many_classes_are_folded_and_none_is_missing(written: Written):
    page, told = written["everything"]
    assert f"The other {MANY - 15}" in page
    assert all(f'<th scope="row">kind {number:03d}</th>' in page for number in range(MANY))
    assert len(told["classes"]) == MANY


def test_a_page_of_many_classes_and_noise_stays_below_three_megabytes(tmp_path: Path):
    findings, _ = made.everything(MANY, 240)
    pixels = noise(240, size=200)
    findings = replace(findings, views=pixels[:8])
    write_report(findings, Decoded(pixels, made.everything(2, 20)[1].spec, ""), tmp_path)
    assert 1_000_000 < (tmp_path / "index.html").stat().st_size < 3_000_000


def test_thresholds_and_what_several_labels_do_are_reported(written: Written):
    page, told = written["several"]
    assert "<h2>False positives</h2>" in page
    assert "the label that it is most wrong about" in page
    assert {one["threshold"] for one in told["classes"]} == {0.4}
    assert told["galleries"]["most_incorrect"][0]["is"]
    assert told["confusion"] is None


def test_what_is_set_apart_is_not_counted_as_learnt_from():
    found, _ = made.findings(2, 200, n_selection=9, n_calibration=20)
    assert found.n_images == {"train": 71, "valid": 100, "judge": 9, "calibrate": 20}
    told = (
        "71 images for training, 9 for model selection, 20 for calibration, "
        "100 held out, 2 classes."
    )
    assert told in results(found).body


def test_rows_of_epochs_are_those_of_2018(written: Written):
    _, told = written["little"]
    assert told["history"] == {
        "columns": ["epoch", "train", "valid", "accuracy"],
        "rows": [[1, 0.5, 0.6, 0.9], [2, 0.4, 0.5, 0.9]],
    }
    assert told["overfitting"] == {"flag": False}


def words(**changed: object) -> dict[str, tuple[str, bool]]:
    found, _ = made.findings(3, 300, **changed)
    return {remark.topic: (remark.text, remark.concern) for remark in in_words(found)}


def test_words_say_how_good_it_is_and_what_it_confuses():
    told = words()
    found, _ = made.findings(3, 300)
    right = found.plain.value
    assert told["Accuracy"][0].startswith(f"{right:.3f} on 150 held-out images (95% interval ")
    assert "“kind 000”" in told["Confusions"][0]
    assert told["Overfitting"] == (
        "none seen: the held-out loss has not turned up; it ends at 0.500, training at 0.400.",
        False,
    )


def test_words_are_concerned_about_overfitting_and_nothing_learnt():
    rising = [Epoch("head", *losses, 0.5, 1, 1) for losses in ((0.9, 0.5), (0.5, 0.4), (0.1, 0.9))]
    flat = np.full((150, 3), 1 / 3, np.float32)
    told = words(history=rising, probabilities=flat)
    assert told["Overfitting"][1]
    assert "overfitting since epoch 2" in told["Overfitting"][0]
    assert not words()["Accuracy"][1]


def test_words_say_when_the_last_stage_made_it_worse():
    worse = [Epoch("head", 0.9, 0.5, 0.5, 1, 1), Epoch("all layers", 0.8, 0.7, 0.5, 1, 1)]
    text, concern = words(history=worse)["Overfitting"]
    assert "was 0.500 after epoch 1 (head) and 0.700 at the end" in text
    assert concern


def epochs(stage: str, *losses: tuple[float, float]) -> list[Epoch]:
    return [Epoch(stage, train, valid, 0.5, 1, 1) for train, valid in losses]


def test_words_say_when_both_losses_rose_in_the_last_stage():
    rising = epochs("head", (0.9, 0.8)) + epochs("all layers", (0.6, 0.5), (0.7, 0.9))
    text, concern = words(history=rising)["Overfitting"]
    assert text.startswith("none, as the training loss has not fallen either; but the network was")
    assert (
        "was 0.500 after epoch 2 (all layers) and 0.900 at the end. A lower learning rate" in text
    )
    assert concern


@pytest.mark.parametrize(
    "history",
    [
        epochs("head", (0.9, 0.001)) + epochs("all layers", (0.8, 0.004)),  # of next to nothing
        epochs("head", (0.9, 0.6)) + epochs("all layers", (0.6, 0.5), (0.5, 0.51)),
    ],
)
def test_words_make_nothing_of_a_held_out_loss_that_hardly_rose(history: list[Epoch]):
    text, concern = words(history=history)["Overfitting"]
    assert text.startswith("none seen")
    assert not concern


@pytest.mark.parametrize(
    "history",
    [
        epochs("all layers", (0.9, 0.5), (0.5, 0.4), (0.1, 0.9)),
        epochs("head", (0.9, 0.5)) + epochs("all layers", (0.8, 0.7)),
    ],
)
def test_words_blame_no_weights_that_the_network_has_not(history: list[Epoch]):
    kept = {"kept": "weights of epoch 2 of all layers"}
    text, concern = words(history=history, facts=kept)["Overfitting"]
    assert text.endswith(
        ". The network has the weights of epoch 2 of all layers instead of the last."
    )
    assert "would help" not in text
    assert not concern


def test_words_say_how_little_a_few_images_prove():
    found, _ = made.findings(2, 6)
    said = np.asarray(found.targets, np.float32)
    measured = measure(said, said, "single")
    told = {one.topic: one for one in in_words(replace(found, probabilities=said, plain=measured))}
    assert "The interval does not rule out that the model is no better." in told["Accuracy"].text
    assert told["Accuracy"].concern


def test_words_say_that_no_label_is_doubted():
    nothing = LabelNoise(150, 0, (), (), ())
    assert words(noise=nothing)["Labels"] == ("none of 150 seems to be wrong.", False)
    assert "Labels" not in words(noise=LabelNoise(0, 0, (), (), ()))


def test_doubts_of_which_hardly_any_is_right_are_reported_as_such():
    found, _ = made.findings()
    one, two = found.labels
    noise = LabelNoise(
        150,
        0,
        (Suspect(0, one, two, 0.4, -0.1),),
        (Confusion(one, two, 1, 0.0), Confusion(two, one, 0, 0.001)),
        (),
    )
    said = words(noise=noise)["Labels"][0]
    assert said == "hardly any of 150 seems wrong; the most doubtful are below."
    assert "of 150 images hardly any seems wrong; the most doubtful: " in describe(
        noise, found.dataset
    )
    section = doubts(replace(found, noise=noise), {})
    assert section
    assert "of which hardly any is wrong" in section.body
    assert f'<th scope="row">{one}</th><td>{two}</td><td>1</td>' in section.body
    assert "<td>0</td>" not in section.body


def test_two_galleries_of_the_same_images_are_shown_once():
    found, decoded = made.findings(3, 30)
    section = answer_images(found, collect_tiles(found, decoded))
    assert section
    assert "(entropy)" in section.body
    told = {name: list(places) for name, places in found.galleries.items()}
    assert told["most_entropy"] != told["most_uncertain"]
    # where only two of the classes are ever likely, both orders are the same
    sure = np.linspace(0.55, 0.95, len(found.rows), dtype=np.float32)
    answered = np.stack([sure, 1 - sure, np.zeros_like(sure)], axis=1)
    found = replace(found, probabilities=answered)
    section = answer_images(found, collect_tiles(found, decoded))
    assert section
    assert "<h3>Most uncertain</h3>" in section.body
    assert "(entropy)" not in section.body


def test_views_have_a_section_only_if_they_change_an_answer():
    found, _ = made.findings(3, 300)
    assert views(replace(found, tta_probabilities=found.targets), {}) is not None
    assert views(replace(found, tta_probabilities=found.probabilities), {}) is None


def test_words_say_whether_views_pay():
    found, _ = made.findings(3, 300)
    perfect, inverted = found.targets, 1 - found.targets
    assert "it helps, at 4 times the work" in words(tta_probabilities=perfect)["Views"][0]
    assert "it does harm" in words(tta_probabilities=inverted)["Views"][0]
    same = words(tta_probabilities=found.probabilities)["Views"][0]
    assert same == "averaging 4 views changes no prediction."
    assert "Views" not in words(n_views=1)


def test_words_say_which_figures_are_those_of_a_service_that_averages_views():
    four = words(facts={"settings": '{"serve_tta_views": 4}'})["Served"][0]
    assert four.endswith("its figures are those of 4 views, not of one.")
    three = words(facts={"settings": '{"serve_tta_views": 3}'})["Served"][0]
    assert three.endswith("whose figures are not on this page; tta_views=3 shows them.")
    assert "Served" not in words(facts={"settings": '{"serve_tta_views": 1}'})


def test_words_say_which_way_probabilities_are_wrong():
    found, _ = made.findings(3, 300)
    sure = (0.97 * np.eye(3) + 0.01)[found.probabilities.argmax(axis=1)].astype(np.float32)
    text, concern = words(probabilities=sure)["Calibrated"]
    assert "overconfident" in text
    assert concern
