"""One list of variables, one set of versions, no secret: over all files of infra/."""

import re
import subprocess

import pytest
import yaml

from tests.infra.files import CLIENT, FILES, INFRA, compose_text, example, filled, images, objects, pods

pytestmark = pytest.mark.slow  # validators of other programs: seconds each

SECRET = re.compile(r"TOKEN|PASSWORD|SECRET|ACCESS_KEY")


def references(node):
    """The keys that are read from the Secret `ssd`, anywhere in a Kubernetes object."""
    if isinstance(node, dict):
        if node.get("name") == "ssd" and "key" in node:
            yield node["key"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def in_compose():
    return set(re.findall(r"\$\{([A-Z0-9_]+)", compose_text()))


def in_manifests():
    return {key for item in objects() for key in references(item)}


def test_what_is_used_is_in_the_example_and_what_is_in_it_is_used():
    assert in_compose() | in_manifests() | CLIENT == set(example())
    assert in_compose() - in_manifests() == {"S3_BUCKET", "RAY_WORKERS", "RAY_AUTH_TOKEN"}  # the last as ray-token
    assert in_manifests() - in_compose() == {"REDIS_PASSWORD"}


def test_ray_gets_the_same_variables_everywhere():
    services = yaml.safe_load(compose_text())["services"]
    (head, worker) = (pod for name, pod in pods() if name == "ssd")
    for pod in (head, worker):
        names = {variable["name"] for variable in pod["containers"][0]["env"]}
        assert names | {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} == set(services["head"]["environment"])  # KubeRay's gift
    assert services["worker"]["environment"] == services["head"]["environment"]


def test_a_shell_reads_the_example_as_compose_does(tmp_path):
    file = tmp_path / "env"
    file.write_text("".join(f"{name}={value}\n" for name, value in filled().items()))
    done = subprocess.run(["bash", "-c", f"set -a; . {file}; env"], env={}, capture_output=True, text=True, timeout=20)
    assert {f"{name}={value}" for name, value in filled().items()} <= set(done.stdout.splitlines())


def test_no_secret_has_a_value():
    given = {name: value for name, value in example().items() if SECRET.search(name) and value}
    assert given == {}
    for line in compose_text().splitlines():
        found = re.match(r"\s+([A-Z0-9_]+): (.*)", line)
        if found and SECRET.search(found[1]):
            assert re.fullmatch(r"\$\{[A-Z0-9_]+:\?set it in infra/\.env\}", found[2]), line


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(INFRA)))
def test_a_file_is_short_and_holds_no_key_and_no_address_of_an_index(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert path.suffix == ".md" or max(map(len, text.splitlines())) <= 120
    assert not re.search(r"AKIA[0-9A-Z]{16}|PRIVATE KEY|://[^/\s@]+:[^/\s@$]+@|index-url|pypi|:latest", text)
    assert f"{INFRA.parent}/" not in text  # where this machine has its checkouts


def test_images_are_pinned_and_the_same_everywhere():
    assert len(images()) >= 8
    versions = {}
    for image in images():
        name, _, tag = image.rpartition(":")
        assert re.search(r"\d+\.\d+", tag), image
        versions.setdefault(name, set()).add(tag)
    assert {name: tags for name, tags in versions.items() if len(tags) > 1} == {}


def test_the_readme_names_every_file():
    readme = (INFRA / "README.md").read_text()
    for path in FILES:
        name = str(path.relative_to(INFRA))
        assert path.suffix in (".md", ".tf", ".dockerignore") or f"`{name}`" in readme, name
