"""The arrows of the design: ssd ← nouns ← verbs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VERBS = {"anchors", "generate", "fetch", "prepare", "tune", "train", "evaluate", "predict", "ui"}


def imports(path):
    """Names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_ssd_imports_with_everything_else_blocked():
    script = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {'ray', 'mlflow', 'dvc', 'pyarrow', 'yaml', 'pydantic', 'hotcoco', 'pipelines'}:
            raise ImportError(f'{name} is blocked')
sys.meta_path.insert(0, Block())
import importlib, pkgutil, ssd
for module in pkgutil.walk_packages(ssd.__path__, 'ssd.'):
    importlib.import_module(module.name)
print('ok')
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "ok", done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "ssd").glob("*.py")), ids=lambda p: p.name)
def test_ssd_needs_torch_torchvision_numpy_and_pillow_alone(path):
    allowed = {"ssd", "torch", "torchvision", "numpy", "PIL", *sys.stdlib_module_names}
    assert {name.split(".")[0] for name in imports(path)} <= allowed


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.py")), ids=lambda p: p.name)
def test_no_module_imports_a_verb(path):
    verbs = {f"pipelines.{verb}" for verb in VERBS}
    assert not verbs & set(imports(path))
