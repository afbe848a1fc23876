"""The Prometheus rules, their tests, their runbook and the dashboard fit each other and the metrics there are."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ai_task_processor.ops.catalogue import CATALOGUE
from tests.fakes.prometheus import program

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
RULES = yaml.safe_load((PROMETHEUS / "rules.yml").read_text(encoding="utf-8"))
TESTS = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text(encoding="utf-8"))
MANIFEST = ROOT / "deploy/kubernetes/components/monitoring/prometheusrule.yaml"
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboard.json").read_text(encoding="utf-8"))
OPERATIONS = (ROOT / "docs/operations.md").read_text(encoding="utf-8")

ALL_RULES = [rule for group in RULES["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in ALL_RULES if "alert" in rule]
RECORDS = [rule["record"] for rule in ALL_RULES if "record" in rule]

METRIC = re.compile(r"\bai_task_processor_\w+(?![\w:])")
SELECTOR = re.compile(r"\b(ai_task_processor_\w+)\{([^}]*)\}")
ADDED = {"job", "instance", "namespace", "le"}
"""Labels that the scrape or the library adds."""


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "rules.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "rules_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_is_content(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(  # noqa: S603
        [program("promtool"), *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_each_alert_is_tested_to_fire_and_not_to(alert: dict[str, Any]) -> None:
    cases = [case for test in TESTS["tests"] for case in test.get("alert_rule_test", ())]
    expected = [case["exp_alerts"] for case in cases if case["alertname"] == alert["alert"]]
    assert any(expected), "no test in which it fires"
    assert not all(expected), "no test in which it does not"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_each_alert_leads_to_its_paragraph_of_the_runbook(alert: dict[str, Any]) -> None:
    name = alert["alert"]
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert alert["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
    runbook = OPERATIONS.partition("\n## Runbook\n")[2].partition("\n## ")[0]
    paragraph = runbook.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
    assert len(paragraph.split()) > 20, "somebody is woken up and wants to know what to do"


def test_the_runbook_knows_no_alert_that_there_is_not() -> None:
    assert sorted(re.findall(r"^### (AiTask\w+)$", OPERATIONS, re.MULTILINE)) == sorted(
        rule["alert"] for rule in ALERTS
    )


def test_each_record_is_tested() -> None:
    asked = {case["expr"] for test in TESTS["tests"] for case in test.get("promql_expr_test", ())}
    assert set(RECORDS) == asked


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in ALL_RULES)
    yield from (target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ()))


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_each_expression_asks_for_metrics_and_labels_there_are(expression: str) -> None:
    known = {one.full_name: set(one.labels) | ADDED for one in CATALOGUE}
    for one in CATALOGUE:
        if one.kind == "histogram":
            known |= {one.full_name + end: set(one.labels) | ADDED for end in ("_bucket", "_sum", "_count")}
    assert set(METRIC.findall(expression)) <= known.keys()
    for name, matchers in SELECTOR.findall(expression):
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) <= known[name]
    recorded = set(re.findall(r"\bai_task_processor:[\w:]+", expression))
    assert recorded <= set(RECORDS)
    grouped = {
        label.strip() for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for label in labels.split(",")
    }
    assert grouped <= {label for labels in known.values() for label in labels}


def test_the_manifest_for_the_operator_has_the_same_rules() -> None:
    manifest = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))
    assert manifest["spec"] == {"groups": RULES["groups"]}, "renew it with `make rules`"


def test_the_dashboard_can_be_imported() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    titles = [panel["title"] for panel in panels]
    assert len(set(titles)) == len(titles)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["type"] == "row" or panel["description"]
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "job", "instance"]
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells), "panels lie over each other"
