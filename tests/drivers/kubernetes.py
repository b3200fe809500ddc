"""Checks that the manifests in packaging/kubernetes fit each other and the configuration that they bring along."""

import re
import sys
import tomllib
from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parents[2] / "packaging" / "kubernetes"


def load(name):
    documents = list(yaml.safe_load_all((FOLDER / name).read_text()))
    assert len(documents) == 1, name
    return documents[0]


def main():
    kustomization = load("kustomization.yaml")
    there = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == there, there
    objects = {(o["kind"]): o for o in map(load, kustomization["resources"])}
    versions = {"Deployment": "apps/v1", "PodDisruptionBudget": "policy/v1", "Service": "v1", "Secret": "v1"}
    assert {kind: o["apiVersion"] for kind, o in objects.items()} == versions
    assert {o["metadata"]["name"] for o in objects.values()} == {"carpool"}

    deployment = objects["Deployment"]["spec"]
    template = deployment["template"]
    labels = template["metadata"]["labels"]
    pod = template["spec"]
    (container,) = pod["containers"]
    selectors = [
        deployment["selector"]["matchLabels"],
        objects["Service"]["spec"]["selector"],
        objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        *[c["labelSelector"]["matchLabels"] for c in pod["topologySpreadConstraints"]],
    ]
    assert all(selector.items() <= labels.items() for selector in selectors), selectors

    (generator,) = kustomization["configMapGenerator"]
    (volume,) = pod["volumes"]
    (mount,) = container["volumeMounts"]
    assert volume["configMap"]["name"] == generator["name"] and mount["name"] == volume["name"]
    (file,) = generator["files"]
    assert container["args"] == [f"{mount['mountPath']}/{file}"], container["args"]
    assert container["image"] in {image["name"] for image in kustomization["images"]}
    cargo = tomllib.loads((FOLDER.parents[1] / "Cargo.toml").read_text())
    assert kustomization["images"][0]["newTag"] == cargo["package"]["version"]

    text = (FOLDER / file).read_text()
    pooler = tomllib.loads(text)["pooler"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"postgresql": pooler["listen_port"], "http": pooler["http_port"]}
    assert {port["targetPort"] for port in objects["Service"]["spec"]["ports"]} == set(ports)
    annotations = template["metadata"]["annotations"]
    assert int(annotations["prometheus.io/port"]) == pooler["http_port"]
    # Probes come from the node.
    assert pooler["http_addr"] == "0.0.0.0"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in ports, probe
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    drain = container["lifecycle"]["preStop"]["sleep"]["seconds"] + pooler["shutdown_timeout"]
    assert pod["terminationGracePeriodSeconds"] >= drain + 10, drain

    variables = set(re.findall(r'env = "(\w+)"', text))
    assert variables == set(objects["Secret"]["stringData"]), variables
    assert container["envFrom"] == [{"secretRef": {"name": objects["Secret"]["metadata"]["name"]}}]
    assert pod["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
    dockerfile = (FOLDER.parents[1] / "docker/carpool/Dockerfile").read_text()
    assert f"USER {pod['securityContext']['runAsUser']}:" in dockerfile


main()
print("ok", file=sys.stderr)
