"""What the README tells people to type exists."""

import re
from pathlib import Path

import yaml

from pipelines.params import load_params
from tests.conftest import TINY, write_params

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def dotted(nested, prefix=""):
    for key, value in nested.items():
        yield from dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]


def test_the_parameters_of_the_example_are_valid(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    changes = dict(dotted(yaml.safe_load(block)))
    params = load_params(write_params(tmp_path / "params.yaml", changes))
    assert params.train.epochs == changes["train.epochs"]
    assert params.prepare.train == ["trainval"]
    assert set(changes) - set(TINY)  # the block was read


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", README, re.MULTILINE))
    assert {a or b for a, b in named} <= targets


def test_modules_exist():
    named = set(re.findall(r"python -m ((?:pipelines|benchmarks)\.[a-z_]+)", README))
    assert named
    for module in named:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_variables_are_read_somewhere():
    named = set(re.findall(r"`(SSD_[A-Z_]+)`", README))
    code = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "pipelines").rglob("*.py"))
    assert {name for name in named if name not in code} == set()
