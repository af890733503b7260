"""The dashboard and the alerts: each expression is held against what a busy server really shows."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import promql_parser as promql
import pytest
import tiny
import yaml
from conftest import RunningServer, settings, wait_until
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import service_pb2, service_pb2_grpc

from registry.candidates import set_candidate
from unfreeze.v1 import admin_pb2 as admin
from unfreeze.v1 import classifier_pb2 as pb

ROOT = Path(__file__).parent.parent
MONITORING = ROOT / "deploy" / "components" / "monitoring"
RUNBOOK = ROOT / "deploy" / "RUNBOOK.md"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
RULES = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]
GIVEN_BY_PROMETHEUS = {"namespace", "job", "instance"}

PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ENTRIES = [rule for group in RULES["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in ENTRIES if "alert" in rule]
RECORDED = {rule["record"]: rule["expr"] for rule in ENTRIES if "record" in rule}

each_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
each_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])


def expression(text: str) -> Any:
    """The parsed expression, with what Grafana fills in."""
    return promql.parse(
        re.sub(r"\$(namespace|model)", ".*", text.replace("$__rate_interval", "1m"))
    )


def all_expressions() -> Iterator[Any]:
    for panel in PANELS:
        for target in panel["targets"]:
            yield pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for annotation in DASHBOARD["annotations"]["list"]:
        yield pytest.param(annotation["expr"], id=annotation["name"])
    for rule in ENTRIES:
        yield pytest.param(rule["expr"], id=rule.get("alert") or rule["record"])


each_expression = pytest.mark.parametrize("text", list(all_expressions()))

# A server that has served, rejected, failed, swapped, compared and trained


@dataclass(frozen=True)
class Scrape:
    text: str
    samples: dict[str, list[dict[str, str]]]

    def labels(self, name: str) -> set[str]:
        if name in RECORDED:
            return labels_by(expression(RECORDED[name]))
        return {label for labels in self.samples[name] for label in labels}


@pytest.fixture(scope="module")
def scrape(tmp_path_factory: pytest.TempPathFactory) -> Scrape:
    folder = tmp_path_factory.mktemp("monitoring")
    for name in ("registry", "data/colours"):
        (folder / name).mkdir(parents=True)
    (folder / "data" / "colours" / "red.png").write_bytes(tiny.picture("red", format="PNG"))
    tiny.publish(folder / "registry", promote=True)
    roots = {"state": folder / "state", "data_roots": (folder / "data",)}
    server = RunningServer(settings(folder / "registry", max_images=4, **roots))
    try:
        live_through(server, folder / "registry")
        text = server.metrics()
    finally:
        server.stop()
    samples: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append(sample.labels)
    return Scrape(text, samples)


def live_through(server: RunningServer, registry: Path) -> None:
    """Something of everything has happened."""
    server.classify(tiny.picture(), b"bad")
    ask = pb.ClassifyRequest(model="colours", images=[tiny.picture()])
    list(server.classifier.ClassifyStream(iter([ask] * 3), timeout=20))
    protocol = service_pb2_grpc.GRPCInferenceServiceStub(server.channel)
    assert protocol.ModelReady(service_pb2.ModelReadyRequest(name="colours"), timeout=20).ready
    for failing in ({"model": "unknown"}, {"top_k": 9}):
        with pytest.raises(grpc.RpcError):
            server.classify(tiny.picture(), **failing)
    another = tiny.publish(registry, bias=(1.0, 0.0, 0.0))
    server.admin.Promote(admin.PromoteRequest(model="colours", version=another), timeout=20)
    for mode in ("fail", "good"):
        request = admin.StartTrainingRequest(
            model="colours", data="colours", settings={"mode": mode}
        )
        job = server.admin.StartTraining(request, timeout=20).job.id
        list(server.admin.WatchJob(admin.WatchJobRequest(job_id=job), timeout=30))
    tried = tiny.publish(registry, bias=(0.0, 0.0, 5.0))
    shadow = {"mode": admin.CANDIDATE_MODE_SHADOW, "percent": 100.0}
    server.admin.SetCandidate(
        admin.SetCandidateRequest(model="colours", version=tried, **shadow), timeout=20
    )
    server.classify(tiny.picture())
    wait_until(lambda: re.search(r"shadow_images_total\{.*differed.*\} 1\.0", server.metrics()))
    tiny.publish(registry, model="other", promote=True)
    broken = tiny.publish(registry, model="other", golden_shift=1.0)
    set_candidate(server.registry, "other", broken, "shadow", 100.0, by="test", reason="a test")
    server.refresh()


# What an expression uses


def inside(node: Any) -> Iterator[Any]:
    """The node and all below it."""
    yield node
    for part in ("expr", "lhs", "rhs", "vector_selector", "param"):
        if (below := getattr(node, part, None)) is not None:
            yield from inside(below)
    for below in getattr(node, "args", None) or ():
        yield from inside(below)


def selectors(node: Any) -> list[Any]:
    return [one for one in inside(node) if isinstance(one, promql.VectorSelector)]


def labels_by(node: Any) -> set[str]:
    """Labels that aggregations keep."""
    kept = (
        one.modifier.labels
        for one in inside(node)
        if isinstance(one, promql.AggregateExpr) and one.modifier
    )
    return {label for labels in kept for label in labels}


def matches(matcher: Any, labels: dict[str, str]) -> bool:
    value = labels.get(matcher.name, "")
    match matcher.op:
        case promql.MatchOp.Equal:
            return value == matcher.value
        case promql.MatchOp.NotEqual:
            return value != matcher.value
        case promql.MatchOp.Re:
            return bool(re.fullmatch(matcher.value, value))
        case _:
            return not re.fullmatch(matcher.value, value)


@each_expression
def test_every_metric_and_every_matcher_finds_something(text: str, scrape: Scrape):
    found = selectors(expression(text))
    assert found
    for selector in found:
        if selector.name in RECORDED:
            continue
        assert selector.name in scrape.samples
        wanted = selector.matchers.matchers
        given = scrape.samples[selector.name]
        assert any(all(matches(one, labels) for one in wanted) for labels in given), selector


@each_expression
def test_every_alternative_of_a_matcher_exists(text: str, scrape: Scrape):
    for selector in selectors(expression(text)):
        for matcher in selector.matchers.matchers:
            if matcher.op != promql.MatchOp.Re or matcher.value == ".*":
                continue
            values = {labels.get(matcher.name) for labels in scrape.samples[selector.name]}
            # UNKNOWN is what gRPC itself says when our own code could not say anything
            assert set(matcher.value.split("|")) - {"UNKNOWN"} <= values


@each_expression
def test_every_label_that_is_kept_or_matched_on_exists(text: str, scrape: Scrape):
    for node in inside(expression(text)):
        used: set[str] = set()
        if isinstance(node, promql.AggregateExpr) and node.modifier:
            used = set(node.modifier.labels)
        elif isinstance(node, promql.BinaryExpr) and node.modifier and node.modifier.matching:
            used = set(node.modifier.matching.labels)
        names = {selector.name for selector in selectors(node)}
        known = {label for name in names for label in scrape.labels(name)}
        assert used <= known | GIVEN_BY_PROMETHEUS


# The dashboard


def test_ids_of_panels_are_unique():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


@each_panel
def test_a_panel_has_a_unit_a_meaning_and_the_chosen_source(panel: dict[str, Any]):
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["description"].endswith(".")
    sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
    assert {source["uid"] for source in sources} == {"${datasource}"}


@each_panel
def test_a_legend_names_labels_that_the_expression_keeps(panel: dict[str, Any], scrape: Scrape):
    for target in panel["targets"]:
        node = expression(target["expr"])
        own = {label for one in selectors(node) for label in scrape.labels(one.name)}
        kept = labels_by(node) or own | GIVEN_BY_PROMETHEUS
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept


def test_panels_do_not_overlap_and_fit_the_page():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not taken & cells
        taken |= cells


@each_panel
def test_a_panel_shows_the_chosen_deployments_alone(panel: dict[str, Any]):
    for target in panel["targets"]:
        for selector in selectors(promql.parse(target["expr"].replace("$__rate_interval", "1m"))):
            chosen = {one.name: one.value for one in selector.matchers.matchers}
            assert chosen["namespace"] == "$namespace"


def test_variables_of_expressions_are_defined():
    defined = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$(\w+)", " ".join(t["expr"] for p in PANELS for t in p["targets"])))
    assert used - {"__rate_interval"} <= defined
    assert "datasource" in defined


# The alerts


@each_alert
def test_an_alert_leads_to_its_paragraph_of_the_runbook(alert: dict[str, Any]):
    file, _, anchor = alert["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^## (.+)\n\n\S", (ROOT / file).read_text(), re.MULTILINE)
    assert alert["alert"] in headings
    assert anchor == alert["alert"].lower()  # as GitHub makes anchors of headings
    assert alert["labels"]["severity"] in ("critical", "warning")


def test_the_runbook_has_no_alert_that_is_gone():
    headings = re.findall(r"^## (.+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(alert["alert"] for alert in ALERTS)


def test_links_of_the_runbook_lead_somewhere():
    text = RUNBOOK.read_text()
    anchors = {heading.lower() for heading in re.findall(r"^## (.+)$", text, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([\w-]+)\)", text)) <= anchors


# With promtool, which Debian has in its package `prometheus` and no index of Python packages has


@pytest.fixture(scope="module")
def promtool() -> str:
    beside = ROOT / ".venv" / "prometheus" / "usr" / "bin" / "promtool"
    found = shutil.which("promtool") or (str(beside) if beside.exists() else "")
    if not found:
        pytest.skip("promtool is not here: apt install prometheus, or run benchmarks/panels.py")
    return found


def check(promtool: str, *arguments: str, **options: Any) -> None:
    ran = subprocess.run(
        [promtool, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    assert ran.returncode == 0, ran.stdout


def test_prometheus_accepts_the_page(promtool: str, scrape: Scrape):
    check(promtool, "check", "metrics", input=scrape.text)


def test_prometheus_accepts_the_rules(promtool: str, tmp_path: Path):
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(RULES))
    check(promtool, "check", "rules", str(tmp_path / "rules.yml"))


def test_every_alert_fires_when_it_should_and_only_then(promtool: str, tmp_path: Path):
    rules = deepcopy(RULES)
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule.pop("annotations", None)  # or each case would repeat them
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    shutil.copy(ROOT / "tests" / "alerts.yaml", tmp_path)
    check(promtool, "test", "rules", str(tmp_path / "alerts.yaml"))


@each_alert
def test_an_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(
    alert: dict[str, Any],
):
    cases = yaml.safe_load((ROOT / "tests" / "alerts.yaml").read_text())["tests"]
    expected = [
        bool(one["exp_alerts"])
        for case in cases
        for one in case["alert_rule_test"]
        if one["alertname"] == alert["alert"]
    ]
    assert set(expected) == {True, False}
