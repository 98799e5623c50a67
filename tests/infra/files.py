"""The files of infra/, as the tests read them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
KUBERAY = INFRA / "kuberay"
MANIFESTS = sorted(path for path in KUBERAY.rglob("*.yaml") if path.name != "kustomization.yaml")
KINDS = {"", ".dockerignore", ".example", ".ini", ".md", ".sh", ".tf", ".yaml"}
FILES = sorted(
    path
    for folder in (INFRA, *KUBERAY.iterdir(), INFRA / "terraform")
    for path in folder.iterdir()
    if path.suffix in KINDS and path.is_file() and path.name != ".env"
)
CLIENT = {"RAY_ADDRESS", "RAY_AUTH_MODE"}  # of env.example, for `dvc repro` alone


def tool(name):
    """A program that came with a wheel of the lock, or else the machine's; None without any."""
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


def locked(name):
    """The version of a package in requirements.lock."""
    (version,) = re.findall(rf"^{re.escape(name)}==([^ ]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    return version


def example():
    """The variables of env.example."""
    lines = (INFRA / "env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def filled():
    """env.example with a value wherever one is to be filled in."""
    return {name: value or f"made-up-{name}" for name, value in example().items()}


def compose_text():
    return (INFRA / "compose.yaml").read_text()


def launcher():
    return yaml.safe_load((INFRA / "aws.yaml").read_text())


def objects():
    """All Kubernetes objects."""
    return [item for path in MANIFESTS for item in yaml.safe_load_all(path.read_text())]


def only(kind):
    """The one Kubernetes object of a kind."""
    (item,) = [item for item in objects() if item["kind"] == kind]
    return item


def templates(node):
    """The pod templates anywhere in a Kubernetes object."""
    if isinstance(node, list):
        for value in node:
            yield from templates(value)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ("template", "submitterPodTemplate"):
                yield value
            else:
                yield from templates(value)


def pods():
    """(name of the object, pod's spec) of all pods in the manifests."""
    return [(item["metadata"]["name"], pod["spec"]) for item in objects() for pod in templates(item)]


def built(folder):
    """The Kubernetes objects that `kubectl apply -k` would apply; None without kubectl and kustomize."""
    if program := tool("kustomize"):
        command = [program, "build", str(folder)]
    elif program := tool("kubectl"):
        command = [program, "kustomize", str(folder)]
    else:
        return None
    return list(yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def images():
    """Every image that is named anywhere in infra/."""
    return re.findall(r"^\s*(?:-\s*)?image:\s*(\S+)", "\n".join(p.read_text() for p in FILES), re.MULTILINE)


def ray_start(words):
    """What Ray's own command line makes of `ray start …`; raises on words that it does not know."""
    from ray.scripts.scripts import start

    assert words[:2] == ["ray", "start"]
    return start.make_context("start", list(words[2:])).params


def mlflow_server(words):
    """What MLflow's own command line makes of `mlflow server …`; raises on words that it does not know."""
    from mlflow.cli import server

    assert words[:2] == ["mlflow", "server"]
    return server.make_context("server", list(words[2:])).params
