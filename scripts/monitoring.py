#!/usr/bin/env python3
"""Usage: monitoring.py config FILE OPERATIONS… | visit API TOKEN | ready PROMETHEUS | queries PROMETHEUS |
       shape | scaling-test

ready:   fails unless this Prometheus answers.
visit:   reads the API's list of webhooks again and again, until it is ended.
config:  writes a configuration of Prometheus that scrapes these addresses every second and loads our alerts.
queries: asks Prometheus each query of the dashboard, of the alerts and of the ScaledObject, and fails if it refuses one, if a query
         of the dashboard finds nothing, or if an alert or the ScaledObject names a metric that is not there.
scaling-test: prints config/prometheus/scaling_test.yml with the query of the ScaledObject in it.
shape:   fails if the dashboard's panels overlap, or lack what a reader needs.
"""

import json
import math
import pathlib
import re
import sys
import time
import urllib.parse
import urllib.request

DASHBOARD = pathlib.Path("config/grafana/penr-webhooks.json")
ALERTS = pathlib.Path("config/prometheus/alerts.yml")
SCALING_TEST = pathlib.Path("config/prometheus/scaling_test.yml")
SCALING = pathlib.Path("config/kubernetes/scaling/scaledobject.yaml")

# Grafana's own variables, as it would fill them in for these seconds of scraping.
VARIABLES = {"$__rate_interval": "20s", "$instance": ".*"}

CONFIG = """
global: {{ scrape_interval: 1s, evaluation_interval: 5s }}
rule_files: [{alerts}]
scrape_configs:
  - job_name: penr-webhooks
    static_configs: [{{ targets: [{targets}] }}]
"""


def panels():
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def filled_in(query):
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    assert "$" not in query, f"an unknown variable of Grafana: {query}"
    return query


def ask(prometheus, query):
    """The samples that the query finds, or how Prometheus refuses it."""
    url = f"{prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            result = json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        return None, json.load(error)["error"]
    if result["resultType"] == "scalar":
        return [float(result["value"][1])], None
    return [float(sample["value"][1]) for sample in result["result"]], None


def has_data(samples):
    return any(not math.isnan(sample) for sample in samples)


def rules():
    """The expressions of the alerts: the file is written so that they are found without a parser of YAML."""
    found = re.findall(r"^( +)expr: (?:\|\n((?:\1  .*\n)+)|(.*)\n)", ALERTS.read_text(), re.M)
    return [block or line for _, block, line in found]


def scaling():
    return re.findall(r"^ +query: >-\n((?: {10}.*\n)+)", SCALING.read_text(), re.M) if SCALING.exists() else []


def scaling_test():
    (query,) = [query for query in scaling() if "first_verdict" in query]
    query = " ".join(query.split()).replace("'", "''")
    print(SCALING_TEST.read_text().replace("expr: (FIRST_VERDICT_AGE)", f"expr: '{query}'"))


def check(prometheus):
    wrong, asked = [], 0
    for panel in panels():
        for target in panel["targets"]:
            asked += 1
            samples, error = ask(prometheus, filled_in(target["expr"]))
            if error or not has_data(samples):
                wrong.append(f"{panel['title']}: {error or 'no data'}: {target['expr']}")
    metrics = set()
    for query in rules() + scaling():
        asked += 1
        _, error = ask(prometheus, query)
        if error:
            wrong.append(f"{error}: {query}")
        metrics.update(re.findall(r"\bpenr_webhooks_\w+", query))
    for metric in sorted(metrics):
        samples, _ = ask(prometheus, metric)
        if not samples:
            wrong.append(f"an alert or the ScaledObject names {metric}, which no process has")
    return wrong, asked


def queries(prometheus):
    # Histograms have data some scrapes after the first event.
    deadline = time.monotonic() + 60
    while True:
        wrong, asked = check(prometheus)
        if not wrong or time.monotonic() > deadline:
            break
        time.sleep(1)
    for problem in wrong:
        print(problem, file=sys.stderr)
    assert asked > 80, f"only {asked} queries were found"
    print(f"monitoring: Prometheus answered {asked - len(wrong)} of {asked} queries as it should")
    return not wrong


def shape():
    wrong, taken, ids = [], {}, set()
    whole = json.loads(DASHBOARD.read_text())
    for panel in whole["panels"]:
        title, place = panel["title"], panel["gridPos"]
        if panel["id"] in ids:
            wrong.append(f"{title}: its id is taken")
        ids.add(panel["id"])
        for cell in [(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])]:
            if cell[0] >= 24 or cell in taken:
                wrong.append(f"{title}: is where {taken.get(cell, 'the screen ends')}")
                break
            taken[cell] = title
    for panel in panels():
        title = panel["title"]
        if not panel["description"] or not panel["fieldConfig"]["defaults"]["unit"]:
            wrong.append(f"{title}: has no description or no unit")
        if panel["datasource"]["uid"] != "${datasource}":
            wrong.append(f"{title}: does not ask the chosen datasource")
        for target in panel["targets"]:
            if not target["legendFormat"] or ("penr_webhooks_" in target["expr"] and "$instance" not in target["expr"]):
                wrong.append(f"{title}: has no legend, or does not ask the chosen processes")
    for problem in wrong:
        print(problem, file=sys.stderr)
    return not wrong


def visit(api, token):
    request = urllib.request.Request(f"{api}/v1/webhooks", headers={"Authorization": f"Bearer {token}"})
    while True:
        with urllib.request.urlopen(request, timeout=10):
            time.sleep(0.2)


def main():
    match sys.argv[1:]:
        case ["config", file, *targets]:
            pathlib.Path(file).write_text(CONFIG.format(alerts=ALERTS.absolute(), targets=", ".join(f'"{t}"' for t in targets)))
        case ["visit", api, token]:
            visit(api, token)
        case ["ready", prometheus]:
            try:
                urllib.request.urlopen(f"{prometheus}/-/ready", timeout=5)
            except OSError:
                sys.exit(1)
        case ["queries", prometheus]:
            sys.exit(not queries(prometheus))
        case ["scaling-test"]:
            scaling_test()
        case ["shape"]:
            sys.exit(not shape())
        case _:
            sys.exit(__doc__)


main()
