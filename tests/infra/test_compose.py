"""compose.yaml, as Docker Compose itself reads it."""

import json
import re
import subprocess

import pytest

from tests.infra.files import INFRA, example, filled, mlflow_server, ray_start, tool

pytestmark = pytest.mark.slow  # validators of other programs: seconds each

SERVICES = ["head", "mlflow", "postgres", "s3", "worker"]


def config(folder, variables):
    """`docker compose config` with these variables alone."""
    file = folder / "env"
    file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    command = [tool("docker-compose"), "--env-file", file, "-f", INFRA / "compose.yaml", "config", "--format", "json"]
    return subprocess.run(command, env={"HOME": str(folder)}, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    done = config(tmp_path_factory.mktemp("compose"), filled())
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["services"]


def test_these_are_all(services):
    assert sorted(services) == SERVICES


@pytest.mark.parametrize("name", [name for name, value in example().items() if not value and name != "REDIS_PASSWORD"])
def test_a_variable_that_was_not_filled_in_stops_it_by_name(name, tmp_path):
    done = config(tmp_path, {**filled(), name: ""})
    assert done.returncode != 0
    assert f"{name} is missing a value: set it in infra/.env" in done.stderr


def test_the_number_of_workers_is_a_variable(tmp_path, services):
    assert services["worker"]["deploy"]["replicas"] == int(example()["RAY_WORKERS"])
    more = json.loads(config(tmp_path, {**filled(), "RAY_WORKERS": "5"}).stdout)
    assert more["services"]["worker"]["deploy"]["replicas"] == 5


@pytest.mark.parametrize("name", SERVICES)
def test_nobody_is_root_or_may_become_it(name, services):
    service = services[name]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*|postgres", service["user"])
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "devices", "network_mode", "pid"} & set(service)


@pytest.mark.parametrize("name", ["head", "mlflow", "worker"])
def test_our_image_is_read_only_but_for_what_ends_with_the_container(name, services):
    assert services[name]["read_only"]
    assert {mount["target"]: mount.get("source") for mount in services[name]["volumes"]} == {
        "/tmp": None,
        "/home/ray": None,
    }


@pytest.mark.parametrize("name", SERVICES)
def test_limits_and_health(name, services):
    service = services[name]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    kind, *test = service["healthcheck"]["test"]
    assert kind == "CMD"
    if test[:2] == ["python", "-c"]:
        compile(test[2], name, "exec")
        assert " " not in test[2]  # podman 4 cuts it there
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_on_the_loopback_alone(name, services):
    assert {port["host_ip"] for port in services[name].get("ports", [])} <= {"127.0.0.1"}


def test_data_are_in_named_volumes(services):
    mounts = {name: service["volumes"] for name, service in services.items() if not service.get("read_only")}
    assert set(mounts) == {"postgres", "s3"}
    assert all(mount["source"] for volumes in mounts.values() for mount in volumes)
    assert {mount["type"] for volumes in mounts.values() for mount in volumes} == {"volume"}


def test_everybody_waits_for_those_they_need_to_be_healthy(services):
    waits = {name: set(service.get("depends_on", {})) for name, service in services.items()}
    assert waits == {
        "head": {"mlflow"},
        "worker": {"head"},
        "mlflow": {"postgres", "s3"},
        "postgres": set(),
        "s3": set(),
    }
    conditions = [wait["condition"] for service in services.values() for wait in service.get("depends_on", {}).values()]
    assert set(conditions) == {"service_healthy"}


def test_ray_understands_its_commands(services):
    head, worker = (ray_start(services[name]["command"]) for name in ("head", "worker"))
    assert head["head"]
    assert head["num_cpus"] == 0
    assert worker["address"] == f"head:{head['port']}"
    assert head["block"]
    assert worker["block"]


def test_mlflow_understands_its_command(services):
    server = mlflow_server(services["mlflow"]["command"])
    variables = filled()
    assert variables["MLFLOW_TRACKING_URI"] == f"http://mlflow:{server['port']}"
    assert f"mlflow:{server['port']}" in server["allowed_hosts"].split(",")
    assert server["artifacts_destination"] == f"{variables['STORAGE_URI']}/mlflow"
    assert server["app_name"] == "basic-auth"
    (port,) = services["mlflow"]["ports"]
    assert (port["target"], port["published"]) == (server["port"], str(server["port"]))


def test_the_bucket_that_is_made_is_the_one_that_is_used(services):
    assert services["head"]["environment"]["STORAGE_URI"].startswith(
        f"s3://{services['s3']['environment']['S3_BUCKET']}/"
    )
    (port,) = services["s3"]["ports"]
    assert services["head"]["environment"]["AWS_ENDPOINT_URL"] == f"http://s3:{port['target']}"


def test_ray_asks_for_the_token(services):
    for name in ("head", "worker"):
        assert services[name]["environment"]["RAY_AUTH_MODE"] == "token"
        assert services[name]["environment"]["RAY_AUTH_TOKEN"] == filled()["RAY_AUTH_TOKEN"]
