"""The environment: each variable once, typed; what is wrong is one line; and addresses are printed without secrets."""

import ast
import os
from pathlib import Path

import pytest

from pipelines.errors import first_line, without_secrets
from pipelines.settings import ROOT, SettingsError, home, main, settings, tracking_uri, variables

SECRET_ADDRESSES = {"tracking_uri", "mlflow_tracking_uri", "ray_address", "storage_uri", "s3_endpoint", "aws_endpoint"}
PRINTS = {"print", "say", "warning", "info", "error", "exit"}


def test_defaults_types_and_help(monkeypatch):
    for name in variables():
        monkeypatch.delenv(name, raising=False)
    found = settings()
    assert (found.ray_address, found.workers, found.storage_patience, found.use_gpu) == ("local", None, 60.0, None)
    monkeypatch.setenv("SSD_WORKERS", "2-8")
    monkeypatch.setenv("SSD_USE_GPU", "0")
    monkeypatch.setenv("SSD_MAX_FAILURES", "")  # empty: not set
    found = settings()
    assert (found.workers, found.use_gpu, found.max_failures) == ((2, 8), False, 3)
    assert all(variables().values())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("SSD_WORKRES", "SSD_WORKRES: there is no variable SSD_WORKRES; did you mean SSD_WORKERS?"),
        ("SSD_JOB_SSD_HOEM", "SSD_JOB_SSD_HOEM: there is no variable SSD_HOEM; did you mean SSD_HOME?"),
        ("SSD_XYZZY", "SSD_XYZZY: there is no variable SSD_XYZZY; `ssd settings` lists them"),
    ],
)
def test_an_unknown_variable_is_an_error_with_a_suggestion(monkeypatch, name, says):
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError) as caught:
        settings()
    assert str(caught.value) == says


@pytest.mark.parametrize("end", ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_GCS", "PORT", "PORT_6379_TCP_ADDR"])
def test_variables_that_kubernetes_makes_for_a_service_do_not_matter(monkeypatch, end):
    monkeypatch.setenv(f"SSD_HEAD_SVC_{end}", "10.0.0.1")
    settings()


@pytest.mark.parametrize(
    ("name", "value", "due"),
    [
        ("SSD_WORKERS", "4-2", "a whole number from 1 on is due, or two with the lower one first: 2-8"),
        ("SSD_USE_GPU", "maybe", "0 or 1 is due"),
        ("SSD_CPUS_PER_WORKER", "0", "1 or more is due"),
        ("SSD_LOADER_WORKERS", "two", "a whole number is due"),
        ("SSD_MAX_FAILURES", "-1", "0 or more is due"),
        ("SSD_ACTORS", "1.5", "a whole number is due"),
        ("SSD_STORAGE_PATIENCE", "a while", "a number is due"),
        ("SSD_STORAGE_PATIENCE", "nan", "a finite number is due"),
        ("SSD_CACHE_GIB", "0", "more than 0 is due"),
        ("SSD_RAY_LOGS", "2", "0 or 1 is due"),
        ("AWS_MAX_ATTEMPTS", "0", "1 or more is due"),
        ("AWS_ENDPOINT_URL", "foo", "http://host:port or https://host is due"),
        ("AWS_ENDPOINT_URL", "http://[::1", "http://host:port or https://host is due"),
        ("AWS_ENDPOINT_URL", "http://host: 9000", "http://host:port or https://host is due"),
        ("AWS_ENDPOINT_URL", "http://host:port", "http://host:port or https://host is due"),
        ("AWS_ENDPOINT_URL_S3", "http://", "http://host:port or https://host is due"),
        ("RAY_ADDRESS", "http://", "http://host:port or https://host is due"),
        ("MLFLOW_TRACKING_URI", "http://a b", "http://host:port or https://host is due"),
    ],
)
def test_a_bad_value_is_named_with_what_is_due(monkeypatch, name, value, due):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        settings()
    assert str(caught.value) == f"{name}={value}: {due}"


def test_a_bad_value_does_not_show_its_password(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host:port")
    with pytest.raises(SettingsError, match=r"^MLFLOW_TRACKING_URI=http://me:\*\*\*@host:port: "):
        settings()


def test_a_relative_home_is_resolved(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSD_HOME", "deep/runs")
    assert home() == settings().home == tmp_path / "deep" / "runs"
    assert tracking_uri() == f"sqlite:///{tmp_path}/deep/runs/mlflow.db"
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    assert home() == tmp_path / "project" / "deep" / "runs"


def test_a_home_that_cannot_be_written_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SSD_HOME", str(tmp_path / "file" / "runs"))
    with pytest.raises(SettingsError) as caught:
        home()
    assert str(caught.value) == (
        f"SSD_HOME={tmp_path}/file/runs: {tmp_path}/file is no folder; set SSD_HOME to a folder that you may write"
    )


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_home_without_permission_is_one_line(monkeypatch, tmp_path):
    tmp_path.chmod(0o500)
    monkeypatch.setenv("SSD_HOME", str(tmp_path / "runs"))
    with pytest.raises(SettingsError, match="cannot be written; set SSD_HOME"):
        home()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://localhost:5000/a", "http://localhost:5000/a"),
        ("sqlite:////tmp/a b/mlflow.db", "sqlite:////tmp/a b/mlflow.db"),
        ("http://[::1]:5000/a", "http://[::1]:5000/a"),
        ("postgresql://me:secret@db:5432/x", "postgresql://me:***@db:5432/x"),
        ("https://secret@host/x", "https://***@host/x"),
        ("http://:secret@host", "http://:***@host"),
        ("http://me:secret@[::1]:5000/a", "http://me:***@[::1]:5000/a"),
        ("http://me:se@cret@host:1/", "http://me:***@host:1/"),
        ("http://me:se/c?r#e@t@host:1/a", "http://me:***@host:1/a"),
        ("http://me:s@e/cret@host:1/a", "http://me:***@host:1/a"),
        ("https://host/a?key=secret&b", "https://host/a?***"),
        ("https://host/a#token=secret", "https://host/a?***"),
        ("API request to http://me:secret@h:5/a?b failed: why?", "API request to http://me:***@h:5/a?*** failed: why?"),
    ],
)
def test_addresses_are_printed_without_secrets(text, shown):
    assert without_secrets(text) == shown


def test_an_error_is_one_line_without_secrets():
    assert first_line(ValueError("http://me:secret@host refuses\nand more")) == "http://me:***@host refuses"
    assert first_line(ValueError()) == "ValueError"


def raw_addresses(node, shown=False):
    """Where a syntax tree prints an address that may hold a secret, outside `without_secrets`."""
    name = getattr(node, "id", getattr(node, "attr", None))
    if isinstance(node, ast.Call):
        called = getattr(node.func, "id", getattr(node.func, "attr", None))
        if called == "without_secrets":
            return
        shown = shown or called in PRINTS
    shown = shown or isinstance(node, ast.FormattedValue)
    if shown and name in SECRET_ADDRESSES | {"endpoint_url"}:
        yield node.lineno
    for child in ast.iter_child_nodes(node):
        yield from raw_addresses(child, shown)


def test_no_message_prints_an_address_raw():
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in Path(ROOT / "pipelines").rglob("*.py")
        for line in raw_addresses(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == set()
    assert list(raw_addresses(ast.parse('print(f"at {tracking_uri()}")'))) == [1]
    assert list(raw_addresses(ast.parse('logger.warning("at %s", tracking_uri())'))) == [1]
    assert list(raw_addresses(ast.parse('print(f"at {without_secrets(tracking_uri())}")'))) == []
    assert list(raw_addresses(ast.parse('X(f"RAY_ADDRESS={settings().ray_address}")'))) == [1]


def test_the_command_prints_what_is_set_without_secrets(monkeypatch, capsys):
    monkeypatch.setenv("SSD_WORKERS", "3")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host")
    main()
    printed = capsys.readouterr().out
    assert "SSD_WORKERS=3\n    number of training workers" in printed
    assert "MLFLOW_TRACKING_URI=http://me:***@host\n" in printed
