"""The image itself, where podman or docker is installed and has it: made by `docker build -f infra/Dockerfile …`."""

import json
import shutil
import subprocess

import pytest

from tests.infra.files import locked
from tests.infra.test_image import PROJECT, arguments

IMAGE = f"registry.example.com/ssd:{PROJECT['version']}"
ENGINE = shutil.which("podman") or shutil.which("docker")
SECRET_FILES = (
    "*.env",
    ".netrc",
    "pip.conf",
    "uv.toml",
    "credentials",
    "auth_token",
    "id_*sa",
    "*.key",
    ".git",
    ".dvc",
)
SECRET_TEXTS = r"PRIVATE KEY-----|AKIA[0-9A-Z]{16}|(PASSWORD|SECRET|TOKEN)[A-Z_]*=[^ $]|://[^/ :@]+:[^/ @]+@"


def engine(*words, timeout=120):
    done = subprocess.run([ENGINE, *words], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout


def built():
    return ENGINE and subprocess.run([ENGINE, "image", "inspect", IMAGE], capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not built(), reason=f"needs podman or docker, and {IMAGE} built"),
]


def inside(script, *options):
    """What a shell prints in a container as compose starts it: read-only but for /tmp and the home."""
    volumes = ["--volume", "/tmp", "--volume", "/home/ray"]
    own = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none"]
    return engine("run", "--rm", *own, *volumes, *options, IMAGE, "sh", "-c", script)


def test_it_is_as_the_dockerfile_says():
    (image,) = json.loads(engine("image", "inspect", IMAGE))
    assert image["Config"]["User"] == arguments("USER")[-1][0]
    assert image["Config"]["WorkingDir"] == arguments("WORKDIR")[-1][0]


def test_no_secret_is_in_the_history_or_the_variables():
    history = engine("history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGE)
    (image,) = json.loads(engine("image", "inspect", IMAGE))
    for word in ("TOKEN", "PASSWORD", "SECRET", "ACCESS_KEY", "://"):
        assert word not in history
        assert word not in " ".join(image["Config"]["Env"])


def test_no_file_holds_a_secret():
    names = " -o ".join(f"-name '{name}'" for name in SECRET_FILES)
    places = "/app /etc /home /opt/venv/bin /root /run /srv /var /tmp"
    found = inside(
        f"find / -xdev -size +0 \\( {names} \\) -not -path '/opt/venv/lib/*' -not -path '/usr/*' 2>/dev/null; true"
    )
    assert found == ""
    assert inside(f"grep -rlIE -e '{SECRET_TEXTS}' {places} 2>/dev/null; true") == ""


def test_nobody_but_root_may_change_it_and_it_is_not_root():
    lines = inside(
        "id -u; touch /app/x 2>&1; touch /opt/venv/x 2>&1; touch /home/ray/x /tmp/x && echo both"
    ).splitlines()
    assert (lines[0], lines[-1]) == ("1000", "both")
    assert len([line for line in lines if "Read-only file system" in line]) == 2


def test_it_has_what_the_lock_names_and_not_the_tools_of_the_tests():
    names = "from importlib.metadata import distributions; print(*(f'{d.name}=={d.version}' for d in distributions()))"
    installed = dict(word.split("==") for word in inside(f'python -c "{names}"').split())
    assert {name: installed[name] for name in ("ray", "mlflow", "torch")} == {
        name: locked(name) for name in ("ray", "mlflow", "torch")
    }
    assert not set(PROJECT["optional-dependencies"]["dev"]) & set(installed)
    assert not {"pip", "triton", "uv"} & set(installed)


def test_its_code_imports_on_a_read_only_file_system():
    stages = ";".join(f"import pipelines.{stage}" for stage in ("prepare", "tune", "train", "evaluate"))
    assert inside(f"python -c '{stages}; print(pipelines.__file__)'").startswith("/app/")
