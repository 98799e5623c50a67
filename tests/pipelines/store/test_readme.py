import re
from pathlib import Path

from pipelines.cluster.signals import run_lock
from pipelines.store.readme import NAME, TEXT

PIPELINES = Path(__file__).parents[3] / "pipelines"


def test_the_folder_of_runs_gets_a_readme_with_the_first_training(tmp_path):
    file = tmp_path / NAME
    with run_lock(tmp_path / "train-abc"):
        assert file.read_text(encoding="utf-8") == TEXT
    written = file.stat().st_mtime_ns
    with run_lock(tmp_path / "train-def"):
        assert file.stat().st_mtime_ns == written
    file.write_text("of an older version")
    with run_lock(tmp_path / "train-abc"):
        assert file.read_text(encoding="utf-8") == TEXT


def test_it_names_every_folder_and_file_that_the_code_puts_there():
    source = "".join(path.read_text(encoding="utf-8") for path in PIPELINES.rglob("*.py"))
    put = set(re.findall(r'\bhome(?:\(\))? / "([^"]+)"', source))
    assert {"cache", "weights", "mlartifacts"} <= put
    assert {name for name in put if not re.search(rf"\b{name.removesuffix('.lock')}\b", TEXT)} == set()
