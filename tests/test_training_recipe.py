"""The recipe from files to a bundle, and the program around it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import photos
import pytest
import torch
from benches import opened
from photos import Heard
from PIL import Image

from registry.bundle import Bundle, verify_bundle
from registry.errors import BadRequest
from registry.golden import read_golden
from registry.images import ImageSpec, prepare
from registry.jobs import Assignment, Scored, StageStarted
from registry.store import Registry
from training.__main__ import main
from training.evaluation.compare import SPLIT, score
from training.export.runtime import answering, open_session
from training.fit.activations import to_device
from training.network.backbone import load_backbone
from training.network.layer_groups import split_groups
from training.network.saving import NETWORK, load_network
from training.planned_stages import planned_stages
from training.reading_settings import read_settings
from training.recipe import train
from training.run.journal import JOURNAL
from training.run.progress import Stages
from training.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Assignment, Bundle, Scored, Heard]:
    """One training of all stages, for the tests that look at what it left."""
    tmp_path = tmp_path_factory.mktemp("trained")
    images = photos.folder(tmp_path / "data", per_class=20)
    # large enough for the last feature map to have several places
    assignment = photos.assignment(tmp_path, images, size="64")
    heard = Heard()
    bundle, scored = train(assignment, heard.append)
    return assignment, bundle, scored, heard


Trained = tuple[Assignment, Bundle, Scored, Heard]


def test_the_stage_is_a_complete_bundle(trained: Trained):
    assignment, bundle, _, _ = trained
    assert verify_bundle(assignment.stage) == bundle
    assert bundle.labels == ("dark", "light")
    assert (assignment.run / "network.safetensors").is_file()
    assert bundle.provenance["backbone"] == "test_efficientnet"


def test_the_recipe_learns(trained: Trained):
    _, bundle, scored, _ = trained
    assert bundle.metrics["accuracy"] >= 0.75
    assert scored.candidate.value == pytest.approx(bundle.metrics["accuracy"])


def test_golden_answers_are_repeated_from_the_encoded_images(trained: Trained):
    assignment, bundle, _, _ = trained
    golden = read_golden(assignment.stage / "golden.npz")
    session = open_session(str(assignment.stage / "model.onnx"))
    pixels = np.stack([prepare(image, bundle.image) for image in golden.images])
    answers = session.run(["probabilities"], {"image": pixels})[0]
    np.testing.assert_allclose(answers, golden.probabilities, atol=1e-6)


def test_the_stages_are_those_planned_in_order(trained: Trained):
    assignment, _, _, heard = trained
    stages = [event for event in heard if isinstance(event, StageStarted)]
    planned = planned_stages(read_settings(assignment.settings))
    assert [(stage.number, stage.stage) for stage in stages] == list(enumerate(planned, start=1))
    assert {stage.of for stage in stages} == {len(stages)}
    assert len(heard.of("epoch_finished")) == 4 + 1 + 1
    assert heard[-1] == trained[2]


def test_every_stage_is_journaled_with_its_epochs(trained: Trained):
    assignment, _, _, heard = trained
    lines = [json.loads(line) for line in (assignment.run / JOURNAL).read_text().splitlines()]
    stages = [line for line in lines if line["what"] == "stage"]
    assert [line["stage"] for line in stages] == [
        event.stage for event in heard.of("stage_started")
    ]
    assert {line["outcome"] for line in stages} == {"done"}
    assert sum(line["what"] == "epoch_finished" for line in lines) == 4 + 1 + 1
    assert (lines[0]["what"], lines[-1]["outcome"]) == ("begins", "done")


def test_the_report_is_one_page_that_needs_nothing_else(trained: Trained):
    report = trained[0].stage / "report"
    page = (report / "index.html").read_text()
    figures = json.loads((report / "report.json").read_text())
    assert page.count("data:image/png;base64,") == 8  # of which two are rates and two the audit
    assert page.count("data:image/jpeg;base64,") >= 16
    assert "http" not in page
    assert sum(map(sum, figures["confusion"])) == figures["images"]["valid"]
    assert set(figures["learning_rates"]) == {"head", "unfrozen"}
    for search in figures["learning_rates"].values():
        assert len(search["rates"]) == len(search["losses"]) > 10
    n_batches = -(-figures["images"]["train"] // 8)
    assert [len(shares) for shares in figures["schedules"].values()] == [4 * n_batches] + [
        n_batches
    ] * 2
    assert 'class="tiles double"' in page  # where the network looked, beside what it answered
    uncertain = figures["galleries"]["most_uncertain"][0]
    assert (trained[0].data / uncertain["file"]).is_file()
    assert uncertain["said"] in figures["labels"]
    layers = json.loads((report / "network.json").read_text())
    assert layers[-1]["output"] == [2]
    assert layers[-1]["learns"]
    assert figures["audit"]["images"] == 40
    for section in ("Mistakes", "Classes", "Calibration", "Training", "Provenance"):
        assert f"<h2>{section}</h2>" in page
    assert figures["history"]["columns"] == ["epoch", "train", "valid", "accuracy"]
    assert [row[0] for row in figures["history"]["rows"]] == [1, 2, 3, 4, 5, 6]
    assert figures["overfitting"]["flag"] in (True, False)


@pytest.mark.parametrize(
    "name",
    [
        "most_correct",
        "most_uncertain",
        "confusion",
        "losses",
        "augmented",
        "schedule",
        "reliability",
        "learning_rate_head",
        "learning_rate_unfrozen",
    ],
)
def test_pictures_show_something(trained: Trained, name: str):
    with Image.open(trained[0].stage / "report" / f"{name}.png") as picture:
        shown = np.asarray(picture.convert("L"))
    assert (shown < 250).mean() > 0.01


def test_the_same_seed_gives_the_same_weights(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=8)
    weights = []
    for name in ("one", "two"):
        assignment = photos.assignment(tmp_path / name, data)
        train(assignment, lambda event: None)
        weights.append((assignment.run / "network.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_settings_reach_what_is_trained_and_what_is_served(tmp_path: Path):
    told = {
        "crop": "squash",
        "crop_fraction": "0.875",
        "augmentation": "top_down",
        "epsilon": "0.1",
    }
    told |= {"frozen_groups": "1", "freeze_batchnorm": "false", "head_schedule": "constant"}
    told |= {"schedule": "one_cycle", "cycle_div": "5", "cycle_tail": "25", "serve_tta_views": "3"}
    assignment = photos.assignment(tmp_path, photos.folder(tmp_path / "data"), **told)
    bundle, _ = train(assignment, lambda event: None)
    assert bundle.image == ImageSpec(size=photos.SIZE, crop="squash", crop_fraction=0.875)
    assert (bundle.tta.default_views, bundle.tta.symmetries) == (3, "dihedral")
    golden = read_golden(assignment.stage / "golden.npz")
    pixels = np.stack([prepare(image, bundle.image) for image in golden.images])
    answers = answering(assignment.stage / "model.onnx")(pixels)
    np.testing.assert_allclose(answers, golden.probabilities, atol=1e-6)

    torch.manual_seed(42)
    begun = load_backbone(photos.QUICK["backbone"], pretrained=False).body
    network, _ = load_network(assignment.run / NETWORK)
    early, late = split_groups(begun)
    now = network.body.state_dict()
    assert all(torch.equal(now[name], begun.state_dict()[name]) for name in early)
    assert not any(torch.equal(now[name], begun.state_dict()[name]) for name in late)
    layers = {name.rpartition(".")[0] for name in early}  # their statistics are no parameters
    same = {name for name, value in begun.named_buffers() if torch.equal(now[name], value)}
    frozen = {name for name, _ in begun.named_buffers() if name.rpartition(".")[0] in layers}
    assert frozen == same
    assert frozen < {name for name, _ in begun.named_buffers()}
    assert network.head[0].eps == 0.1
    figures = json.loads((assignment.stage / "report" / "report.json").read_text())
    head, _, body = figures["schedules"].values()
    assert set(head) == {1.0}
    assert (min(body), max(body)) == (pytest.approx(0.2), 1)


def test_a_multi_label_table_trains(tmp_path: Path):
    photos.folder(tmp_path / "images", per_class=8)
    rows = [
        f"{path.relative_to(tmp_path)},{path.parent.name}{' even' if index % 2 else ''}"
        for index, path in enumerate(sorted((tmp_path / "images").rglob("*.*")))
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]))
    assignment = photos.assignment(tmp_path, tmp_path / "labels.csv", cycles="0")
    bundle, scored = train(assignment, lambda event: None)
    assert (bundle.task, bundle.thresholds) == ("multi", (0.5, 0.5, 0.5))
    assert scored.candidate.metric == "f2"
    assert 0 <= bundle.metrics["label_accuracy"] <= 1
    shown = f"<td>{bundle.metrics['label_accuracy']:.4f}</td>"
    assert shown in (assignment.stage / "report" / "index.html").read_text()


def test_the_champion_is_scored_only_on_images_it_never_learnt_from(
    trained: Trained, tmp_path: Path
):
    champion = trained[0].stage
    data = photos.folder(tmp_path / "data", per_class=20)
    split = (champion / SPLIT).read_text().splitlines()[1:]
    files = {line.rsplit(",", 1)[1]: line.split(",")[1] for line in split}
    learnt = next(name for name, part in files.items() if part == "train")
    for name, part in files.items():
        target = data / ("valid" if part == "valid" or name == learnt else "train") / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (data / name).rename(target)
    heard = Heard()
    assignment = photos.assignment(tmp_path, data, cycles="0", augmented_epochs="0")
    assignment = assignment.model_copy(update={"champion": champion, "champion_version": 1})
    _, scored = train(assignment, heard.append)
    n_fresh = sum(part == "valid" for part in files.values())
    assert scored.images == n_fresh
    assert scored.promoted is not None
    told = f"1 of {n_fresh + 1} held-out images is left out of the comparison"
    assert told in str(heard.of("note"))


def test_a_training_outlives_the_version_that_it_was_to_be_compared_with(tmp_path: Path):
    data = photos.folder(tmp_path / "data")
    assignment = photos.assignment(tmp_path, data, cycles="0", augmented_epochs="0")
    pruned = {"champion": tmp_path / "registry" / "photos" / "1", "champion_version": 1}
    heard = Heard()
    bundle, scored = train(assignment.model_copy(update=pruned), heard.append)
    assert verify_bundle(assignment.stage) == bundle
    assert scored.promoted is None
    assert "version 1 cannot be compared: " in str(heard.of("note"))


def test_a_version_with_other_labels_is_not_compared(trained: Trained, tmp_path: Path):
    assignment, bundle, _, _ = trained
    dataset, heard = opened(tmp_path, assignment.data, assignment.settings).dataset, Heard()
    other = bundle.model_copy(update={"labels": ("cat", "dog")})
    against = assignment.model_copy(update={"champion": assignment.stage, "champion_version": 1})
    answers = np.full((len(dataset.rows("valid")), 2), 0.5, np.float32)
    scored = score(dataset, other, answers, against, Stages(heard.append, 1))
    assert (scored.promoted, scored.promoted_version, scored.images) == (None, None, len(answers))
    (note,) = heard.of("note")
    changes = "new 'cat', 'dog'; gone 'dark', 'light'"
    assert note.text == f"version 1 has other labels ({changes}): it cannot be compared"
    assert score(dataset, bundle, answers, against, Stages(heard.append, 1)).promoted is not None


def test_stages_that_settings_leave_out_are_not_planned():
    everything = read_settings({"recipe": "fastai2018", "label_noise": "true"})
    assert len(planned_stages(everything)) == 13
    least = Settings(augmented_epochs=0, cycles=0, variants=(), label_noise=False)
    assert len(planned_stages(least)) == 8


def command(tmp_path: Path, data: Path, *more: str) -> list[str]:
    settings = [f"--set={key}={value}" for key, value in photos.QUICK.items()]
    folders = ["--registry", str(tmp_path / "registry"), "--cache", str(tmp_path / "cache")]
    return ["--data", str(data), "--model", "photos", *settings, *folders, *more]


def test_the_command_publishes_and_promotes_a_first_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = photos.folder(tmp_path / "data")
    quick = ("--set=cycles=0", "--set=augmented_epochs=0")
    assert main(command(tmp_path, data, *quick)) == 0
    assert main(command(tmp_path, data, *quick, "--set=seed=7")) == 0
    registry = Registry(tmp_path / "registry")
    promoted = registry.promoted("photos")
    assert registry.versions("photos") == [1, 2]
    assert promoted is not None
    assert promoted.pointer.version == 1
    assert (
        "published, not promoted: unfreeze promote photos 2 makes it live"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set=nonsense"], "--set nonsense: write it as KEY=VALUE"),
        (["--set= =1"], "--set  =1: write it as KEY=VALUE"),
        (["--model", "../escape"], "'../escape' is not a valid model name"),
        (["--data", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_the_command_says_what_is_wrong_and_exits_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
):
    assert main([*command(tmp_path, tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = photos.folder(tmp_path / "data", per_class=4)
    folders = ["--cache", "/dev/null/cache", "--run", str(tmp_path / "run"), "--json"]
    assert main([*command(tmp_path, data), *folders]) == 1
    assert "Not a directory: '/dev/null/cache'" in capsys.readouterr().err


def one_class(data: Path) -> None:
    photos.folder(data, per_class=1, classes={"dark": 60})


def a_list_of_nothing(data: Path) -> None:
    data.write_text("file,label\n00.png,dark\n")


NO_DATA: dict[str, tuple[Callable[[Path], object], str]] = {
    "nowhere": (
        lambda data: None,
        "no such folder or file; give a folder of class folders, a CSV or TSV, or Parquet files",
    ),
    "empty": (Path.mkdir, "no images; put JPEG, PNG or WebP files into one folder for each class"),
    "photos": (one_class, "a classifier needs at least two classes; found only 'dark'"),
    "labels.csv": (a_list_of_nothing, "line 2: "),
}


@pytest.mark.parametrize("name", NO_DATA)
def test_that_there_is_nothing_to_learn_from_is_all_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
):
    data, (make, message) = tmp_path / name, NO_DATA[name]
    make(data)
    assert main([*command(tmp_path, data), "--json"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("unfreeze train: ")
    assert message in told.err
    assert {path.name for path in tmp_path.iterdir()} <= {name}


@pytest.mark.parametrize(
    ("folder", "code", "reason"),
    [("data", 2, "no such folder"), ("cache", 1, "Not a directory: '/dev/null/nowhere'")],
)
def test_a_child_says_why_it_failed(tmp_path: Path, folder: str, code: int, reason: str):
    assignment = photos.assignment(tmp_path, photos.folder(tmp_path / "data"))
    assignment = assignment.model_copy(update={folder: Path("/dev/null/nowhere")})
    (tmp_path / "assignment.json").write_text(assignment.model_dump_json())
    child = start_child(tmp_path)
    assert child.stdin is not None
    assert child.stdout is not None
    last = json.loads(child.stdout.read().splitlines()[-1])
    child.wait(30)
    child.stdin.close()
    child.stdout.close()
    assert (child.returncode, last["kind"]) == (code, "failed")
    assert reason in last["reason"]


def test_a_child_ends_when_its_parent_does(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=30)
    assignment = photos.assignment(tmp_path, data, cycles="1", cycle_len="200")
    (tmp_path / "assignment.json").write_text(assignment.model_dump_json())
    child = start_child(tmp_path)
    assert child.stdout is not None
    assert child.stdout.readline()
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(60) == 143
    child.stdout.close()


def start_child(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "training", "--assignment", str(folder / "assignment.json")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_the_heads_statistics_are_those_of_all_it_learnt_from(trained: Trained):
    """And not of one class at a time, in whose batches the classes' difference is no variance."""
    assignment, bundle, _, _ = trained
    network, _ = load_network(assignment.run / NETWORK)
    files = sorted(assignment.data.rglob("*.*"))
    pixels = np.stack([prepare(path.read_bytes(), bundle.image) for path in files])
    with torch.inference_mode():
        features = network.features(to_device(pixels, torch.device("cpu")))
    norm = network.head[0]
    assert isinstance(norm, torch.nn.BatchNorm1d)
    assert norm.running_var is not None
    told = norm.running_var.sum() / features.var(dim=0).sum()
    assert 0.6 < told < 1.6


def test_frozen_statistics_outlive_a_whole_training(trained: Trained):
    """The backbone began with statistics that were never touched: means of 0, variances of 1."""
    network, _ = load_network(trained[0].run / NETWORK)
    buffers = dict(network.body.named_buffers())
    means = [value for name, value in buffers.items() if name.endswith("running_mean")]
    variances = [value for name, value in buffers.items() if name.endswith("running_var")]
    assert means
    assert all(torch.equal(mean, torch.zeros_like(mean)) for mean in means)
    assert all(torch.equal(variance, torch.ones_like(variance)) for variance in variances)


def test_every_setting_in_the_examples_exists():
    sources = [*(ROOT / "unfreeze").rglob("*.py"), ROOT / "training" / "__main__.py"]
    shown = {name for path in sources for name in re.findall(r"--set (\w+)=\w", path.read_text())}
    assert {"cycle_len", "size"} <= shown <= set(Settings.model_fields)


def test_a_service_reads_weights_from_the_allowed_folders_alone(tmp_path: Path):
    """Whether the file exists is not told either."""
    asked = photos.assignment(tmp_path, tmp_path / "data", weights=str(tmp_path / "secret.pt"))
    confined = asked.model_copy(update={"within": (tmp_path / "data",)})
    with pytest.raises(BadRequest, match=r"secret\.pt lies outside the folders"):
        train(confined, lambda event: None)
