"""How every command ends, in processes of their own: exit codes, one line, no traceback."""

import ast
import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pipelines.__main__ import names
from pipelines.errors import explain, writing

ROOT = Path(__file__).parents[2]
AFTER = "the same command begins anew"


def job(body):
    """A process that runs `body` as the command `job`, its streams piped."""
    script = "\n".join(
        [
            "import errno, os, signal, sys, time",
            "from pipelines.command import command",
            "from pipelines.errors import UserError, writing",
            f"@command('job', '{AFTER}')",
            "def main():",
            textwrap.indent(textwrap.dedent(body), "    "),
            "main()",
        ]
    )
    return [sys.executable, "-c", script]


def end_of(body, stdout=subprocess.PIPE):
    """(exit code, standard error) of `body`."""
    done = subprocess.run(job(body), stdout=stdout, stderr=subprocess.PIPE, cwd=ROOT, text=True, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ("return None", 0, ""),
        ("return 0", 0, ""),
        ("return 3", 3, ""),
        ("raise UserError('x.yaml: a: wrong; mend it')", 1, "job: x.yaml: a: wrong; mend it\n"),
        ("open('/nowhere/x')", 1, "job: /nowhere/x: No such file or directory\n"),
        ("sys.exit(5)", 5, ""),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(9)", 130, f"job: interrupted; {AFTER}\n"),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)", 143, f"job: ended by SIGTERM; {AFTER}\n"),
        # once more while it cleans up
        (
            "try: raise KeyboardInterrupt\nfinally: os.kill(os.getpid(), signal.SIGINT)",
            130,
            f"job: interrupted; {AFTER}\n",
        ),
        (
            "try: raise KeyboardInterrupt\nfinally: os.kill(os.getpid(), signal.SIGTERM)",
            143,
            f"job: ended by SIGTERM; {AFTER}\n",
        ),
        # and once more when all is said: the process ends at once
        (
            "import atexit; atexit.register(os.kill, os.getpid(), signal.SIGINT); raise KeyboardInterrupt",
            -signal.SIGINT,
            f"job: interrupted; {AFTER}\n",
        ),
    ],
)
def test_ends(body, code, says):
    assert end_of(body) == (code, says)


def test_a_defect_keeps_its_traceback():
    code, said = end_of("return 1 / 0")
    assert code == 1
    assert said.startswith("Traceback")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_from_outside(number, code):
    body = "print('ready', flush=True); time.sleep(60)"
    with subprocess.Popen(job(body), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert said.endswith(f"; {AFTER}\n")
    assert len(said.splitlines()) == 1


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"])
def buffering(request, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", request.param)


@pytest.mark.usefixtures("buffering")
@pytest.mark.parametrize("body", ["print('x')", "print('x' * 10**6)", "print('x'); return 3"])
def test_nobody_reads_the_output_any_more(body):
    read, write = os.pipe()
    os.close(read)  # as `| head` does when it has enough
    try:
        assert end_of(body, stdout=write) == (141, "")
    finally:
        os.close(write)


def test_another_broken_pipe_is_an_error():
    code, said = end_of("r, w = os.pipe(); os.close(r); os.write(w, b'x')")
    assert (code, said) == (1, "job: Broken pipe\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.usefixtures("buffering")
@pytest.mark.parametrize("body", ["print('x')", "print('x'); return 3"])
def test_the_output_goes_to_a_full_disk(body):
    with open("/dev/full", "w") as full:
        code, said = end_of(body, stdout=full)
    assert (code, said.split(";")[0]) == (1, "job: No space left on device")
    assert len(said.splitlines()) == 1


def test_without_any_output():
    assert end_of("os.close(1); sys.stdout = None; print('x')") == (0, "")


@pytest.fixture(scope="session")
def on_disk():
    """Runs a command line where a folder is a disk of its own, mounted with some options; returns what became of it."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("needs `unshare -rm`: mount namespaces are not permitted here")

    def run(options, folder, words):
        mount = f'mount -t tmpfs -o {options} none "$0" && exec "$@"'
        words = ["unshare", "-rm", "sh", "-c", mount, str(folder), *words]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)

    return run


@pytest.mark.parametrize(
    "write",
    [
        "with writing(FILE): open(FILE, 'wb').write(bytes(10**6))",
        "from ssd.checkpoint import save; import torch; save({'x': torch.zeros(10**5)}, FILE)",
    ],
    ids=["naming", "checkpoint"],
)
def test_a_full_disk_names_the_file_and_the_fix(tmp_path, on_disk, write):
    done = on_disk("size=64k", tmp_path, job(write.replace("FILE", repr(str(tmp_path / "x")))))
    fix = "make room there, or choose another folder (SSD_HOME for runs and caches)"
    assert (done.returncode, done.stderr) == (1, f"job: {tmp_path}/x: No space left on device; {fix}\n")


def test_a_disk_that_can_only_be_read(tmp_path, on_disk):
    done = on_disk("ro", tmp_path, job(f"os.mkdir({str(tmp_path / 'x')!r})"))
    says = f"job: {tmp_path}/x: Read-only file system; choose a folder that you may write\n"
    assert (done.returncode, done.stderr) == (1, says)


def test_help_takes_no_seconds():
    """It imports neither PyTorch nor Ray nor MLflow, nor anything else that is slow."""
    script = """
import contextlib, runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    with contextlib.suppress(SystemExit):
        runpy.run_module(f"pipelines.{name}", run_name="__main__")
slow = "torch torchvision ray mlflow dvc pyarrow pandas numpy scipy matplotlib PIL boto3 optuna hotcoco jinja2 shtab"
print("imported:", *sorted(set(slow.split()) & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *names()], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "imported:", done.stderr
    explained = set(re.findall(r"^usage: ssd (\w+)", done.stdout, re.MULTILINE))
    assert explained == set(names()) - {"settings"}


def test_every_command_ends_so():
    for name in set(names()) - {"settings"}:
        path = ROOT / "pipelines" / name / "__main__.py"
        path = path if path.exists() else ROOT / "pipelines" / f"{name}.py"
        (main,) = (n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef) and n.name == "main")
        (decorator,) = main.decorator_list
        assert (decorator.func.id, decorator.args[0].value) == ("command", name), path


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda f: (f / "file/below").mkdir(), "file/below: Not a directory; a file is where a folder is due"),
        (lambda f: (f / "file").mkdir(exist_ok=True), "file: File exists; a file is where a folder is due"),
        (lambda f: f.write_text("x"), ": Is a directory; a folder is where a file is due; move it away"),
        (lambda f: os.replace(f / "file", f / "folder"), "folder: Is a directory; a folder is where a file is due"),
        (lambda f: (f / "gone").read_text(), "gone: No such file or directory"),
        (lambda f: socket.create_connection(("127.0.0.1", 1)), "Connection refused"),
        (lambda f: socket.getaddrinfo("nowhere.invalid", 80), ""),
    ],
)
def test_what_the_system_refuses(tmp_path, call, says):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as error:  # noqa: PT011
        call(tmp_path)
    assert says in explain(error.value)
    assert "Errno" not in explain(error.value)
    assert "Unknown error" not in explain(error.value)


def test_a_number_that_is_not_the_systems_gets_no_hint():
    assert explain(OSError(errno.EPERM, "certificate verify failed")) == "certificate verify failed"
    assert explain(OSError("several\nlines")) == "several"


def test_naming_leaves_other_names_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="other"), writing(tmp_path / "x"):
        (tmp_path / "other").read_text()
