"""Every command against a real server: what it prints, and its exit code."""

import json
import os
import pty
import random
import re
import signal
import socket
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest
import tiny
from conftest import TESTS, RunningServer, Start, wait_until

from registry.jobs import CHECKPOINT
from unfreeze.cli import main
from unfreeze.commands.job_output import in_words
from unfreeze.commands.jobs import new_model, only
from unfreeze.commands.shared import UsageError, settings_of
from unfreeze.events import Unknown

COMMANDS = [
    ["train"],
    ["import"],
    ["demo"],
    ["data"],
    *(["data", name] for name in ("fetch", "audit")),
    ["predict"],
    ["retrain"],
    ["jobs"],
    *(["jobs", name] for name in ("list", "show", "watch", "cancel")),
    ["models"],
    ["versions"],
    *(["versions", name] for name in ("list", "prune")),
    ["promote"],
    ["rollback"],
    ["candidate"],
]


@pytest.fixture
def at(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> RunningServer:
    """The server that commands find in their environment."""
    monkeypatch.setenv("UNFREEZE_ADDRESS", server.address)
    monkeypatch.setenv("UNFREEZE_ADMIN_ADDRESS", server.admin_address)
    return server


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(tiny.picture("red"))
    (folder / "more" / "b.PNG").write_bytes(tiny.picture("blue", format="PNG"))
    (folder / "notes.txt").write_text("not an image")
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def unfreeze(*arguments: object, **options: object) -> "subprocess.Popen[str]":
    """The command as a process of its own."""
    command = [sys.executable, "-m", "unfreeze", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, **options)


# predict


def test_predict_names_every_image_of_a_folder(at, photos: Path, capsys):
    code, out, _ = run(capsys, "predict", photos, "--model", "colours")
    first, second = out.splitlines()
    assert code == 0
    assert first.startswith(f"{photos}/a.jpg\tred 0.9")
    assert second.startswith(f"{photos}/more/b.PNG\tblue 0.9")


def test_predict_as_json_is_a_line_an_image(at, photos: Path, capsys):
    options = ("--model", "colours", "--top-k", 2, "--tta-views", 4, "--json")
    code, out, _ = run(capsys, "predict", photos, *options)
    first, second = map(json.loads, out.splitlines())
    assert code == 0
    assert (first["version"], first["error"]) == (1, None)
    assert second["labels"][0]["name"] == "blue"
    assert len(second["labels"]) == 2


def test_predict_prints_every_label_that_a_multi_label_model_assigns(at, photos: Path, capsys):
    tiny.publish(at.settings.registry, model="tags", promote=True, task="multi", bias=(99, 98, -99))
    tiny.publish(
        at.settings.registry, model="none", promote=True, task="multi", bias=(-99, -99, -99)
    )
    at.refresh()
    _, tags, _ = run(capsys, "predict", photos / "a.jpg", "--model", "tags")
    _, none, _ = run(capsys, "predict", photos / "a.jpg", "--model", "none")
    _, one, _ = run(capsys, "predict", photos / "a.jpg", "--model", "tags", "--top-k", 1)
    assert {text.split()[0] for text in tags.split("\t")[1:]} == {"red", "green"}
    assert none == f"{photos}/a.jpg\tno label\n"
    assert len(one.split("\t")) == 2


def test_predict_fails_when_one_image_does_and_shows_the_others(at, photos: Path, capsys):
    files = (photos / "notes.txt", photos / "a.jpg")
    code, out, err = run(capsys, "predict", *files, "--model", "colours")
    bad, good = out.splitlines()
    assert code == 1
    assert "error: not an image" in bad
    assert "red" in good
    assert "1 of 2 images" in err


def test_predict_prints_a_line_an_image_whatever_the_names(
    start: Start, root: Path, tmp_path: Path, capsys
):
    tiny.publish(root, promote=True, labels=("deep\tred", "green\\n", "blue\n"))
    address = start().address
    image = tmp_path / "a\tb\nc\\\x1b[1m é.jpg"
    image.write_bytes(tiny.picture("red"))
    options = ("--model", "colours", "--top-k", 3, "--address", address)
    _, out, _ = run(capsys, "predict", image, *options)
    assert out.count("\n") == 1
    name, *labels = out.rstrip("\n").split("\t")
    assert name == rf"{tmp_path}/a\tb\nc\\\x1b[1m é.jpg"
    assert sorted(label.split(" 0.")[0] for label in labels) == [
        r"blue\n",
        r"deep\tred",
        r"green\\n",
    ]


def test_predict_takes_the_regular_files_of_a_folder(at, photos: Path, capsys):
    os.mkfifo(photos / "pipe.jpg")
    (photos / "folder.jpg").mkdir()
    (photos / "gone.jpg").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(photos / "socket.jpg"))
    code, out, _ = run(capsys, "predict", photos, "--model", "colours")
    names = [Path(line.split("\t")[0]).name for line in out.splitlines()]
    assert (code, names) == (1, ["a.jpg", "gone.jpg", "b.PNG"])
    assert "gone.jpg\terror: cannot be read: No such file or directory" in out


@pytest.mark.parametrize(
    ("environment", "cat"),
    [
        ({"LC_ALL": "C"}, b"\xf0\x9f\x90\x88"),
        ({"LC_ALL": "C.UTF-8"}, b"\xf0\x9f\x90\x88"),
        ({"PYTHONIOENCODING": "latin-1"}, b"\\U0001f408"),
    ],
    ids=["C", "UTF-8", "Latin-1"],
)
def test_predict_prints_names_that_standard_output_cannot_encode(
    at, tmp_path: Path, environment: dict[str, str], cat: bytes
):
    folder = os.fsencode(tmp_path / "odd")
    os.mkdir(folder)
    name = folder + b"/\xff\xe9 \xf0\x9f\x90\x88.jpg"
    with open(name, "wb") as file:
        file.write(tiny.picture("red"))
    command = [sys.executable, "-m", "unfreeze", "predict", folder, "--model", "colours"]
    plain, as_json = (
        subprocess.run([*command, *more], env=os.environ | environment, capture_output=True)
        for more in ([], ["--json"])
    )
    assert (plain.returncode, plain.stderr) == (0, b"")
    assert plain.stdout.startswith(folder + b"/\\udcff\\udce9 " + cat + b".jpg\tred 0.9")
    assert (as_json.returncode, as_json.stderr) == (0, b"")
    assert os.fsencode(json.loads(as_json.stdout.decode())["image"]) == name


def test_predict_is_answered_whatever_a_server_takes_at_a_time(
    start: Start, root: Path, tmp_path: Path, capsys
):
    tiny.publish(root, promote=True)
    address = start(max_images=3, max_message_mb=1).address
    for number in range(20):
        image = tiny.picture("red") + bytes(300_000 if number > 10 else 0)
        (tmp_path / f"{number:02}.jpg").write_bytes(image)
    code, out, _ = run(capsys, "predict", tmp_path, "--model", "colours", "--address", address)
    assert code == 0
    assert out.count("\tred 0.9") == 20


def test_predict_can_ask_an_older_version(at, photos: Path, capsys):
    tiny.publish(at.settings.registry, bias=(0, 0, 9), promote=True)
    at.refresh()
    new = run(capsys, "predict", photos / "a.jpg", "--model", "colours")[1]
    old = run(capsys, "predict", photos / "a.jpg", "--model", "colours", "--model-version", 1)[1]
    assert "blue" in new
    assert "red" in old


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["a.jpg", "--model", "unknown"], 3, "unknown"),
        (["a.jpg", "--model", "colours", "--model-version", "99"], 3, "99"),
        (["a.jpg", "--model", "colours", "--top-k", "4"], 2, "top_k"),
        (["a.jpg", "--model", "colours", "--tta-views", "1000"], 2, "tta_views"),
        (["none.jpg", "--model", "colours"], 2, "none.jpg: no such file or folder"),
        (["empty", "--model", "colours"], 2, "empty: no JPEG, PNG or WebP in this folder"),
        (["a.jpg", "--model", "colours", "--address", "127.0.0.1:1"], 4, "127.0.0.1:1"),
    ],
)
def test_predict_says_what_is_wrong(at, photos: Path, monkeypatch, capsys, arguments, code, said):
    monkeypatch.chdir(photos)
    (photos / "empty").mkdir()
    actual, out, err = run(capsys, "predict", *arguments)
    assert actual == code
    assert out == ""
    assert err.startswith("unfreeze: ")
    assert said in err


def test_predictions_and_administration_taken_for_one_another_say_which_port_is_whose(
    at, photos: Path, capsys
):
    asked = run(capsys, "predict", photos, "--model", "colours", "--address", at.admin_address)
    listed = run(capsys, "models", "--admin-address", at.address)
    for code, out, err in (asked, listed):
        assert (code, out) == (1, "")
        assert "does not answer that; predictions are on 8001 and administration on 8003" in err


def test_a_port_where_no_grpc_is_spoken_says_so(at, capsys):
    code, out, err = run(capsys, "models", "--admin-address", at.metrics_address)
    assert (code, out) == (4, "")
    assert f"{at.metrics_address}: no gRPC server answers at this address" in err


# models and versions


def test_models_are_listed(at, capsys):
    code, out, _ = run(capsys, "models")
    (model,) = json.loads(run(capsys, "models", "--json")[1])
    assert (code, out) == (0, "colours\t1\t1\t1\tready\t\n")
    assert (model["name"], model["promoted_version"], model["ready"]) == ("colours", 1, True)


def test_models_say_which_version_answers_where_the_promoted_one_does_not_load(at, capsys):
    version = tiny.publish(at.settings.registry)
    at.registry.promote("colours", version, by="test", reason="")
    (at.registry.folder("colours", version) / "model.onnx").write_bytes(b"damaged")
    at.refresh()
    _, out, _ = run(capsys, "models")
    assert out.startswith("colours\t2\t2\t2\tversion 1 answers: ")


def test_versions_are_listed_newest_first(at, capsys):
    tiny.publish(at.settings.registry, metrics={"ece": 0.1, "log_loss": 0.5, "accuracy": 0.875})
    lines = run(capsys, "versions", "colours")[1].splitlines()
    newest, oldest = json.loads(run(capsys, "versions", "list", "colours", "--json")[1])
    assert [line.split("\t")[:2] for line in lines] == [["2", ""], ["1", "live"]]
    assert lines[0].endswith("\taccuracy 0.875  log_loss 0.5")
    assert newest["metrics"]["ece"] == 0.1
    assert (newest["version"], oldest["labels"]) == (2, ["red", "green", "blue"])


def test_versions_show_the_f_score_of_any_beta(at, capsys):
    scores = {"f0.5": 0.75, "f0.5_tta": 0.5, "label_accuracy": 0.9, "log_loss": 0.25}
    tiny.publish(at.settings.registry, metrics=scores)
    newest, _ = run(capsys, "versions", "colours")[1].splitlines()
    assert newest.endswith("\tf0.5 0.75  log_loss 0.25")


def test_promote_and_roll_back(at, photos: Path, capsys):
    tiny.publish(at.settings.registry, bias=(0, 0, 9))
    told = run(capsys, "promote", "colours", 2, "--reason", "looks better")
    blue = run(capsys, "predict", photos / "a.jpg", "--model", "colours")[1]
    _, out, err = run(capsys, "rollback", "colours", "--json")
    back = json.loads(out)
    red = run(capsys, "predict", photos / "a.jpg", "--model", "colours")[1]
    assert told == (0, "colours: version 2 is live (before: 1)\n", "")
    assert "blue" in blue
    assert (back["version"], back["replaced"], back["pointer"]) == (1, 2, 3)
    assert err == "another rollback makes version 2 live again\n"
    assert "red" in red


def test_promote_and_candidate_say_that_labels_have_moved(at, capsys):
    tiny.publish(at.settings.registry, labels=("blue", "green", "red"))
    tried = run(capsys, "candidate", "colours", "--version", 2, "--split", 5)[1]
    code, out, err = run(capsys, "promote", "colours", 2)
    changes = "its labels differ from those of version 1 (the same labels in another order); "
    assert tried.startswith(f"colours: version 2 answers 5 %; {changes}")
    assert (code, out) == (0, "colours: version 2 is live (before: 1)\n")
    assert err.startswith(changes)


def test_a_candidate_is_tried_listed_and_cleared(at, photos: Path, capsys):
    tiny.publish(at.settings.registry)
    tried = run(capsys, "candidate", "colours", "--version", 2, "--shadow", 100)
    assert tried == (0, "colours: version 2 shadows 100 %\n", "")
    run(capsys, "predict", photos / "a.jpg", "--model", "colours")
    said = "version 2 shadows 100 %, agrees on 1 of 1 image"
    wait_until(lambda: said in run(capsys, "models")[1])
    split = json.loads(run(capsys, "candidate", "colours", "--version=2", "--split=5", "--json")[1])
    assert (split["mode"], split["percent"], split["compared"]) == ("split", 5, 1)
    cleared = run(capsys, "candidate", "colours", "--clear")[1]
    assert cleared == "colours: version 2 is no longer tried\n"
    assert json.loads(run(capsys, "models", "--json")[1])[0]["candidate"] is None
    again = run(capsys, "candidate", "colours", "--clear")
    assert again == (0, "colours: no version was being tried\n", "")


def test_prune_deletes_old_versions(at, capsys):
    for _ in range(3):
        tiny.publish(at.settings.registry)
    code, out, _ = run(capsys, "versions", "prune", "colours", "--keep", 1)
    again = json.loads(run(capsys, "versions", "prune", "colours", "--keep", 1, "--json")[1])
    assert (code, out) == (0, "deleted: 2, 3\n")
    assert again == {"model": "colours", "deleted": []}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["versions", "unknown"], 3),
        (["promote", "colours", "99"], 3),
        (["rollback", "colours"], 1),  # nothing was replaced
        (["candidate", "colours", "--shadow", "5"], 2),  # which version?
        (["candidate", "colours", "--version", "1", "--clear"], 2),
        (["candidate", "colours", "--version", "1", "--shadow", "5"], 1),  # it is promoted
        (["candidate", "colours", "--version", "7", "--split", "5"], 3),
        (["candidate", "colours", "--version", "1", "--split", "0"], 2),
        (["models", "--admin-address", "127.0.0.1:1"], 4),
    ],
)
def test_version_commands_exit_with_a_code(at, capsys, arguments: list[str], code: int):
    actual, out, err = run(capsys, *arguments)
    assert (actual, out) == (code, "")
    assert err.startswith("unfreeze: ")


# retrain and jobs


def test_retrain_prints_the_id_of_the_job(at, data: Path, capsys):
    code, out, err = run(capsys, "retrain", "colours", "--data", data / "colours")
    assert err == f"follow it: unfreeze jobs watch {out}"
    shown = json.loads(run(capsys, "jobs", "show", out.strip(), "--json")[1])
    assert code == 0
    assert shown["model"] == "colours"
    assert shown["idempotency_key"]


def test_retrain_says_that_a_model_is_new_because_its_name_may_be_misspelt(at, data, capsys):
    tiny.publish(at.settings.registry, model="birds")
    code, out, err = run(capsys, "retrain", "color", "--data", data / "colours")
    first, second = err.splitlines()
    assert code == 0
    assert first == "color is a new model; models here: colours, birds"
    assert second == f"follow it: unfreeze jobs watch {out.strip()}"


def test_of_many_models_a_remark_names_a_few():
    known = [f"m{i}" for i in range(20)]
    assert new_model("birds", known).endswith(
        "here: m0, m1, m10, m11, m12, m13, m14, m15 and 12 more"
    )
    assert new_model("birds", []) == "birds is a new model, the first one here"


def test_retrain_watched_prints_every_event_to_the_end(at, data: Path, capsys):
    code, out, _ = run(capsys, "retrain", "colours", "--data", data / "colours", "--watch")
    told = out.splitlines()
    assert code == 0
    assert "[2/2] fit" in told
    assert any(line.startswith("  epoch  1/1   train loss 0.3000") for line in told)
    assert "    version 1    accuracy 0.8000  log loss 0.5000" in told
    assert any(line.startswith("  gate: promote: ") for line in told)
    assert told[-1].startswith("succeeded: version 2 published, promoted: ")
    assert sum("succeeded" in line for line in told) == 1


def test_retrain_watched_as_json_is_job_events_job(at, data: Path, capsys):
    folder = data / "colours"
    options = ("--watch", "--json", "--promotion", "never", "--set", "accuracy=0.7")
    code, out, _ = run(capsys, "retrain", "colours", "--data", folder, *options)
    first, *events, last = map(json.loads, out.splitlines())
    assert code == 0
    assert first["settings"] == {"accuracy": "0.7"}
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert "epoch_finished" in {event["kind"] for event in events}
    assert (last["state"], last["version"], last["promoted"]) == ("succeeded", 2, False)


def test_a_score_that_is_no_number_is_null_in_json_and_the_job_succeeds(at, data: Path, capsys):
    options = ("--data", data / "colours", "--watch", "--json", "--set", "champion=nan")
    code, out, _ = run(capsys, "retrain", "colours", *options)
    told = [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()]
    (scored,) = (event["event"] for event in told if event.get("kind") == "scored")
    assert scored["promoted"] == {"metric": "accuracy", "value": None, "log_loss": 0.5}
    assert (code, told[-1]["state"]) == (0, "succeeded")


def test_a_setting_may_be_a_blank():
    """Which `read_settings` keeps for `label_separator` alone."""
    told = settings_of([" size =128", "label_separator= ", "suffix="])
    assert told == {"size": "128", "label_separator": " ", "suffix": ""}


def test_retrain_with_the_same_settings_shows_them(at, data: Path, capsys):
    recorded = {"settings": json.dumps({"accuracy": "0.7", "bias": "0,9,0"})}
    tiny.publish(at.settings.registry, promote=True, provenance=recorded)
    options = ("--data", data / "colours", "--same-settings", "--set", "accuracy=0.9")
    code, out, err = run(capsys, "retrain", "colours", *options)
    assert code == 0
    assert err.splitlines()[0] == "settings: accuracy=0.9 bias=0,9,0"
    assert "accuracy=0.9 bias=0,9,0" in run(capsys, "jobs", "show", out.strip())[1]


def test_retrain_exits_with_the_outcome_of_the_job(at, data: Path, capsys):
    options = ("--watch", "--set", "mode=fail")
    code, out, _ = run(capsys, "retrain", "colours", "--data", data / "colours", *options)
    assert code == 1
    assert "failed" in out.splitlines()[-1]
    assert "class 'green' has no images" in out.splitlines()[-1]


def test_retrain_with_the_same_key_is_the_same_job(at, data: Path, capsys):
    options = ("retrain", "colours", "--data", data / "colours", "--key", "nightly")
    assert run(capsys, *options)[1] == run(capsys, *options)[1]
    assert len(json.loads(run(capsys, "jobs", "--json")[1])) == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["retrain", "colours", "--data", "/etc"], 2),
        (["retrain", "colours", "--data", "none"], 3),
        (["retrain", "colours", "--data", "colours", "--set", "size"], 2),
        (["retrain", "no/name", "--data", "colours"], 2),
        (["retrain", "colours", "--data", "colours", "--set", "refused=no such mode"], 2),
        (["jobs", "show", "unknown"], 3),
        (["jobs", "watch", "unknown"], 3),
        (["jobs", "cancel", "unknown"], 3),
    ],
)
def test_job_commands_exit_with_a_code(at, capsys, arguments: list[str], code: int):
    actual, out, err = run(capsys, *arguments)
    assert (actual, out) == (code, "")
    assert err.startswith("unfreeze: ")


def test_a_job_is_listed_shown_cancelled_and_watched(at, data: Path, capsys):
    options = ("--data", data / "colours", "--set", "mode=hang")
    job = run(capsys, "retrain", "colours", *options)[1].strip()
    listed = run(capsys, "jobs", "--limit", 5)[1]
    cancelled = run(capsys, "jobs", "cancel", job)
    watched = run(capsys, "jobs", "watch", job)
    shown = run(capsys, "jobs", "show", job)[1]
    assert listed.startswith(f"{job}\tcolours\t")
    assert cancelled[0] == 0
    assert watched[0] == 1
    assert watched[1].splitlines()[-1].startswith("cancelled")
    assert "state\tcancelled\n" in shown


def test_the_settings_of_a_job_are_shown_sorted_and_as_a_shell_takes_them(at, data: Path, capsys):
    options = ("--data", data / "colours", "--set", "mode=hang", "--set", "label_separator= ")
    job = run(capsys, "retrain", "colours", *options, "--set", "a=1")[1].strip()
    shown = run(capsys, "jobs", "show", job)[1]
    run(capsys, "jobs", "cancel", job)
    assert "settings\ta=1 'label_separator= ' mode=hang\n" in shown


def test_a_job_answers_to_the_first_letters_of_its_id(at, data: Path, capsys):
    job = run(capsys, "retrain", "colours", "--data", data / "colours")[1].strip()
    assert f"job\t{job}\n" in run(capsys, "jobs", "show", job[:6])[1]
    assert run(capsys, "jobs", "watch", job[:8])[0] == 0
    assert f"job\t{job}\n" in run(capsys, "jobs", "cancel", job[:31])[1]
    assert run(capsys, "jobs", "show", job[:5])[0] == 3


def test_the_beginning_of_two_ids_names_neither():
    first, second = "abcdef" + "0" * 26, "abcdef" + "1" * 26
    with pytest.raises(UsageError, match=f"abcdef is ambiguous: the ids {first}, {second} begin"):
        only("abcdef", [first, second])


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_ids_are_whole_on_a_terminal_however_narrow(columns: int):
    ids = ["0123456789abcdef" * 2, "fedcba9876543210" * 2]
    message = "promoted: accuracy 0.9300 on 120 held-out images, version 2 had 0.9100"
    rows = [[one, "birds", "succeeded", 3, "2026-03-01 12:00:00", message] for one in ids]
    heads = ["job", "model", "state", "version", "queued", "message"]
    lines = on_a_terminal(columns, f"show_table({heads}, {rows})").splitlines()
    assert [line.split()[0] for line in lines if "birds" in line] == ids
    assert max(map(len, lines)) <= max(columns, 80)
    assert all("succeeded" in line for line in lines if "birds" in line)


def test_a_table_does_not_command_the_terminal():
    lines = on_a_terminal(80, r"show_table(['id', 'message'], [['1', 'a\x1b[2Jb']])")
    assert r"a\x1b[2Jb" in lines
    assert "\x1b[2J" not in lines


def on_a_terminal(columns: int, call: str) -> str:
    """What a function of `shared` prints on a terminal of that width."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    code = f"from unfreeze.commands.shared import *; {call}"
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    environment |= {"TERM": "dumb"}
    subprocess.run([sys.executable, "-c", code], stdout=theirs, env=environment, check=True)
    os.close(theirs)
    told = b""
    with suppress(OSError):  # the end of a terminal, on Linux
        while read := os.read(ours, 4096):
            told += read
    os.close(ours)
    return told.decode()


def test_cancelling_a_finished_job_fails_and_says_that_nothing_was_cancelled(at, data, capsys):
    job = run(capsys, "retrain", "colours", "--data", data / "colours")[1].strip()
    run(capsys, "jobs", "watch", job)
    code, out, err = run(capsys, "jobs", "cancel", job)
    assert code == 1
    assert "state\tsucceeded\n" in out
    assert err == f"job {job} had already succeeded; nothing was cancelled\n"


def test_interrupting_a_watch_leaves_the_job_running(at, data: Path, capsys):
    folder = data / "colours"
    watch = unfreeze("retrain", "colours", "--data", folder, "--set", "mode=hang", "--watch")
    job = watch.stdout.readline().strip()
    wait_until(lambda: "running" in run(capsys, "jobs", "show", job)[1])
    watch.send_signal(signal.SIGINT)
    _, err = watch.communicate(timeout=20)
    assert watch.returncode == 130
    assert err == f"the job goes on; to follow it again: unfreeze jobs watch {job}\n"
    assert "state\trunning" in run(capsys, "jobs", "show", job)[1]
    assert run(capsys, "jobs", "cancel", job)[0] == 0


def lasting_port() -> int:
    """A free one that nobody gets who asks for any: those are above 32,767."""
    for port in random.sample(range(20_000, 30_000), 100):
        with suppress(OSError), socket.socket() as free:
            free.bind(("127.0.0.1", port))
            return port
    raise OSError("of a hundred ports none is free")


def test_a_watch_outlives_a_restart_of_the_server(
    start: Start, root: Path, state: Path, data: Path, monkeypatch: pytest.MonkeyPatch
):
    tiny.publish(root, promote=True)
    port = lasting_port()
    monkeypatch.setenv("UNFREEZE_ADMIN_ADDRESS", f"127.0.0.1:{port}")
    first = start(state=state, data_roots=(data,), admin_port=port)
    folder = data / "colours"
    watch = unfreeze("retrain", "colours", "--data", folder, "--set", "mode=hang once", "--watch")
    job = watch.stdout.readline().strip()
    wait_until((state / "jobs" / job / "run" / CHECKPOINT).exists)
    first.stop()
    start(state=state, data_roots=(data,), admin_port=port)
    out, err = watch.communicate(timeout=60)
    assert (watch.returncode, err) == (0, "")
    assert out.splitlines()[-1].startswith("succeeded: version 2")


# the command itself


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_examples(command: list[str], capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    assert re.search(r"examples:\n(  # .*\n)?  unfreeze ", capsys.readouterr().out)


def test_help_names_all_commands_and_exit_codes(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    out = capsys.readouterr().out
    names = {"serve", *(command[0] for command in COMMANDS)}
    assert all(re.search(rf"\n    {name}\s", out) for name in names)
    assert "no server could be reached" in out


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["promote", "colours", "one"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)


@pytest.mark.parametrize(
    ("command", "option", "numbers", "most"),
    [
        ("predict a.jpg --model m --top-k", "--top-k", ("-1", "0", "99999999999"), 2**32 - 1),
        ("predict a.jpg --model m --model-version", "--model-version", ("-5", "0"), 2**64 - 1),
        ("promote colours", "VERSION", ("-1", "1.5", str(2**64)), 2**64 - 1),
        ("candidate colours --split 5 --version", "--version", ("-1",), 2**64 - 1),
        ("versions prune colours --keep", "--keep", ("-1", "0", str(2**32)), 2**32 - 1),
        ("jobs list --limit", "--limit", ("-1", "0", "many"), 2**32 - 1),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_option_and_range(
    command: str, option: str, numbers: tuple[str, ...], most: int, capsys
):
    for number in numbers:
        with pytest.raises(SystemExit, match="2"):
            main([*command.split(), number])
        why = f": argument {option}: {number} is not a whole number from 1 to {most}\n"
        assert why in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["nan", "0", "-1", "long"])
def test_a_timeout_that_is_no_time_is_refused(seconds: str, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["predict", "a.jpg", "--model", "m", "--timeout", seconds])
    why = f": argument --timeout: {seconds} is not a number above 0\n"
    assert why in capsys.readouterr().err


def test_a_timeout_may_be_infinite(at, photos: Path, capsys):
    options = ("--model", "colours", "--timeout", "inf")
    assert run(capsys, "predict", photos, *options)[0] == 0


def test_no_views_may_be_asked_for_but_not_fewer(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["predict", "a.jpg", "--model", "m", "--tta-views", "-1"])
    assert "--tta-views: -1 is not a whole number from 0 to " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "missing", "install"),
    [
        ("serve", "onnxruntime", "pip install 'unfreeze[cpu]'"),
        ("train", "torch", "pip install 'unfreeze[train,cpu]'"),
        ("demo", "elpv_dataset", "pip install 'unfreeze[train,cpu]' elpv-dataset"),
    ],
)
def test_a_program_that_is_not_installed_says_how_to(program: str, missing: str, install: str):
    hide = f"import sys; sys.modules[{missing!r}] = None; from unfreeze.cli import main"
    command = [sys.executable, "-c", f"{hide}; sys.exit(main([{program!r}]))"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert f"needs {missing}, which is not installed; install it with: {install}" in ended.stderr


def test_serve_gets_its_own_arguments_and_nothing_from_the_folder_of_its_caller(tmp_path: Path):
    (tmp_path / "service.py").write_text("raise SystemExit('taken for the service')")
    command = [sys.executable, "-P", "-m", "unfreeze", "serve", "--help"]
    environment = os.environ | {"PYTHONPATH": str(TESTS.parent)}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "--drain-seconds" in ended.stdout
    assert "examples:\n  unfreeze serve " in ended.stdout


def test_output_that_nobody_reads_ends_the_command_quietly(at, photos: Path):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "unfreeze", "predict", photos, "--model", "colours"]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_an_event_of_a_newer_server_is_passed_over():
    assert in_words(Unknown()) == ""
