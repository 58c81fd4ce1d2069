#!/usr/bin/env python3
"""Usage: kubernetes.py BASE SCALING AUTOSCALER

BASE and SCALING are what the two kustomizations in config/kubernetes make. Fails if something in them does not fit together. Writes
the autoscaler that KEDA would make of the ScaledObject into AUTOSCALER, because there is a schema for that, and none for KEDA's.
"""

import pathlib
import re
import sys
import tomllib

import yaml

CONFIG = pathlib.Path("config")
SECRETS = "/run/secrets/penr-webhooks/"
wrong = []


def must(holds, problem):
    if not holds:
        wrong.append(problem)


def read(file):
    objects = [each for each in yaml.safe_load_all(pathlib.Path(file).read_text()) if each]
    return {(each["kind"], each["metadata"]["name"]): each for each in objects}


def of_kind(objects, *kinds):
    return [each for (kind, _), each in objects.items() if kind in kinds]


def seconds(duration):
    number, unit = re.fullmatch(r"(\d+)(s|m)", duration).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


def every_file_is_used():
    for folder in ["base", "scaling"]:
        folder = CONFIG / "kubernetes" / folder
        listed = set(yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]) | {"kustomization.yaml"}
        for file in folder.glob("*.yaml"):
            must(file.name in listed, f"{file} is in no list of resources")


def variables(objects, container):
    """The variables that a container gets, from its own list and from ConfigMaps."""
    found = {}
    for source in container["envFrom"]:
        name = source["configMapRef"]["name"]
        must(("ConfigMap", name) in objects, f"there is no ConfigMap {name}")
        found |= objects[("ConfigMap", name)]["data"]
    return found | {each["name"]: each["value"] for each in container.get("env", [])}


def check_variables(name, given, mounted):
    """Each is a setting, and each file that one names is mounted."""
    settings = tomllib.loads((CONFIG / "default.toml").read_text())
    for variable, value in given.items():
        if variable.endswith("_FILE"):
            must(value in mounted, f"{name}: nothing is mounted at {value}")
        if variable in ["DATABASE_URL", "AMQP_URL", "PENR_WEBHOOKS_CONFIG"]:
            continue
        section, setting = variable.removeprefix("PENR_WEBHOOKS__").removesuffix("_FILE").lower().split("__")
        must(setting in settings.get(section, {}), f"{name}: {variable} is no setting")
    config = pathlib.Path(given["PENR_WEBHOOKS_CONFIG"])
    must((CONFIG / config.name).exists() and config.parent.name == "penr-webhooks", f"the image has no {config}")


def check_workload(objects, workload):
    name, pod = workload["metadata"]["name"], workload["spec"]["template"]["spec"]
    secure = pod["securityContext"]
    must(secure["runAsNonRoot"] and secure["runAsUser"] == 10001, f"{name}: does not run as 10001")
    must(secure["seccompProfile"]["type"] == "RuntimeDefault", f"{name}: has no seccomp profile")
    must(pod["automountServiceAccountToken"] is False, f"{name}: gets a token of Kubernetes")
    must(pod["enableServiceLinks"] is False, f"{name}: gets variables of services, with names like ours")
    (container,) = pod["containers"]
    limits = container["securityContext"]
    must(limits["readOnlyRootFilesystem"] and not limits["allowPrivilegeEscalation"], f"{name}: may change files or gain rights")
    must(limits["capabilities"] == {"drop": ["ALL"]}, f"{name}: has capabilities")
    must(re.search(r":\d[\w.-]*$", container["image"]), f"{name}: {container['image']} has no version")
    must("memory" in container["resources"]["limits"], f"{name}: has no limit of memory")
    (volume,) = pod["volumes"]
    mounted = [SECRETS + item["path"] for item in volume["secret"]["items"]]
    must(container["volumeMounts"][0]["mountPath"] + "/" == SECRETS, f"{name}: its secrets are elsewhere")
    given = variables(objects, container)
    check_variables(name, given, mounted)
    if workload["kind"] == "Deployment":
        must(workload["spec"]["selector"]["matchLabels"].items() <= labels(workload).items(), f"{name}: does not select its pods")
        grace = seconds(given["PENR_WEBHOOKS__SHUTDOWN__GRACE"])
        must(grace < pod["terminationGracePeriodSeconds"] <= grace + 10, f"{name}: is killed before it has stopped")
        for probe, path in [("startupProbe", "/livez"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")]:
            must(container[probe]["httpGet"] == {"path": path, "port": "ops"}, f"{name}: {probe} does not ask {path}")
        must(container["readinessProbe"]["timeoutSeconds"] >= 3, f"{name}: gives a probe less time than a silent database takes")


def labels(workload):
    return workload["spec"]["template"]["metadata"]["labels"]


def selected(workloads, selector):
    return [each for each in workloads if selector.items() <= labels(each).items()]


def check_selectors(objects):
    """Services, budgets and policies choose pods that are there, and name ports that these have."""
    workloads = of_kind(objects, "Deployment", "Job")

    def ports(pods):
        return {port["name"] for pod in pods for port in pod["spec"]["template"]["spec"]["containers"][0].get("ports", [])}

    for service in of_kind(objects, "Service"):
        pods = selected(workloads, service["spec"]["selector"])
        must(pods and all(pod["kind"] == "Deployment" for pod in pods), f"Service {service['metadata']['name']}: chooses wrong pods")
        must({port["targetPort"] for port in service["spec"]["ports"]} <= ports(pods), f"{service['metadata']['name']}: wrong ports")
    for budget in of_kind(objects, "PodDisruptionBudget"):
        chosen = selected(workloads, budget["spec"]["selector"]["matchLabels"])
        must([each["metadata"]["name"] for each in chosen] == [budget["metadata"]["name"]], "a budget chooses wrong pods")
    for policy in of_kind(objects, "NetworkPolicy"):
        pods = selected(workloads, policy["spec"]["podSelector"].get("matchLabels", {}))
        named = [port["port"] for rule in policy["spec"].get("ingress", []) for port in rule["ports"]]
        must(pods and set(named) <= ports(pods), f"NetworkPolicy {policy['metadata']['name']}: chooses wrong pods or ports")


def autoscaler(base, scaling):
    """The HorizontalPodAutoscaler that KEDA makes of the ScaledObject."""
    (scaled,) = of_kind(scaling, "ScaledObject")
    spec, target = scaled["spec"], scaled["spec"]["scaleTargetRef"]["name"]
    must("replicas" not in scaling[("Deployment", target)]["spec"], "the overlay sets the number of workers, which is KEDA's")
    must(base[("Deployment", target)]["spec"]["replicas"] == spec["minReplicaCount"], "the two begin with different numbers of workers")
    must(set(spec) <= {"scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval", "advanced", "triggers"},
         "the ScaledObject has a field that this check does not know")
    metrics = []
    for trigger in spec["triggers"]:
        must(all(isinstance(value, str) for value in trigger["metadata"].values()), "KEDA takes only texts in metadata")
        must({"serverAddress", "query", "threshold"} <= set(trigger["metadata"]), "a trigger lacks what KEDA needs")
        must(trigger["metadata"]["ignoreNullValues"] == "false", "without metrics KEDA would stop workers")
        kind, threshold = trigger["metricType"], trigger["metadata"]["threshold"]
        field = {"AverageValue": "averageValue", "Value": "value"}[kind]
        metrics.append({"type": "External", "external": {"metric": {"name": trigger["name"]}, "target": {"type": kind, field: threshold}}})
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": f"keda-hpa-{target}"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target},
            "minReplicas": spec["minReplicaCount"],
            "maxReplicas": spec["maxReplicaCount"],
            "metrics": metrics,
            "behavior": spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"],
        },
    }


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    base, scaling = read(sys.argv[1]), read(sys.argv[2])
    every_file_is_used()
    for objects in [base, scaling]:
        workloads = of_kind(objects, "Deployment", "Job")
        must(len(workloads) == 3, "not all workloads are there")
        for workload in workloads:
            check_workload(objects, workload)
        check_selectors(objects)
    pathlib.Path(sys.argv[3]).write_text(yaml.safe_dump(autoscaler(base, scaling)))
    for problem in dict.fromkeys(wrong):
        print(problem, file=sys.stderr)
    if not wrong:
        print(f"kubernetes: {len(scaling)} objects fit together")
    sys.exit(bool(wrong))


main()
