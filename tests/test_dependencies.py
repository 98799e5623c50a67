"""What the code imports is declared in pyproject.toml, not only there because something else brings it along."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS = {"ssd", "pipelines", "benchmarks", "infra", "tests"}
OPTIONAL = {"d2l", "openvino", "ultralytics"}  # benchmarks compare with them where somebody has installed them


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {canonical(re.match(r"[\w.-]+", line)[0]) for line in lines}


def imported(folders):
    """Top-level modules that are imported anywhere in the folders, with one file each."""
    found = {}
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            found |= {name.partition(".")[0]: str(path.relative_to(ROOT)) for name in names}
    return {name: file for name, file in found.items() if name not in OURS | OPTIONAL | set(sys.stdlib_module_names)}


def missing(folders, *extras):
    distributions = packages_distributions()
    return {
        f"{name} ({file})"
        for name, file in imported(folders).items()
        if not {canonical(one) for one in distributions.get(name, [name])} & declared(*extras)
    }


def test_what_is_imported_is_declared():
    assert missing(["ssd", "pipelines", "infra"], "export", "serve", "video") == set()
    assert missing(["benchmarks"], "dev", "export") == set()


def test_what_is_declared_is_locked():
    locked = {canonical(name) for name in re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), re.M)}
    assert declared("dev", "export", "serve", "video") - locked == set()


def test_uv_trusts_the_systems_certificates():
    """Behind a TLS proxy that pip gets through, uv fails with the certificates that it brings along."""
    assert re.search(r"^export UV_SYSTEM_CERTS \?= true$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    installs = [line for line in (ROOT / "infra" / "Dockerfile").read_text().splitlines() if "uv pip install" in line]
    assert installs
    assert all(" --system-certs " in line for line in installs)
