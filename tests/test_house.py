"""The plan of the house: which room may import which, what a room shows to others, and what DVC knows of it."""

import ast
import functools
import importlib
import pkgutil
import re
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.cluster.package import AT_HOME

ROOT = Path(__file__).parents[1]
STAGES = ("generate", "prepare", "tune", "train", "evaluate")
TOOLS = (
    "fetch", "anchors", "completion", "doctor", "export", "predict", "promote", "repro", "score", "serving", "ui"
)  # fmt: skip
# They measure as the stage `evaluate` does, or train as `train` does.
ABOVE = {"compare", "relabel", "seeds", "verify"}
# From the ground up: a room imports rooms below its own floor only, and itself.
FLOORS = (
    {"errors", "live", "strict_yaml"},
    {"files", "settings"},
    {"params"},
    {"store", "tracking", "tuned", "pictures", "coco"},
    {"card", "cluster", "layouts", "recipe"},
    {"command", "label_files", "training"},
    {"__main__", "arguments", "preflight"},
    {"export", "onnx_detector"},
    {*STAGES, *TOOLS} - {"export"},
    ABOVE,
)
# A search begins with the anchors that the tool would propose.
EXCEPTIONS = {("pipelines/tune", "pipelines.anchors.coverage")}
# What only carries a result, or refuses to make one: DVC and the names of runs look no further than these.
CARRIERS = (
    "pipelines/cluster/",
    "pipelines/command.py",
    "pipelines/errors.py",
    "pipelines/export/",
    "pipelines/files.py",
    "pipelines/live.py",
    "pipelines/preflight/",
    "pipelines/settings.py",
    "pipelines/store/checkpoints.py",
    "pipelines/store/download.py",
    "pipelines/store/s3.py",
    "pipelines/store/shard_transfer.py",
)
SOURCES = sorted((ROOT / "pipelines").rglob("*.py"))


def name_of(path):
    return str(path.relative_to(ROOT))


def room_of(path):
    """The room of a file in pipelines/: its folder, or itself."""
    return path.relative_to(ROOT / "pipelines").parts[0].removesuffix(".py")


@functools.cache
def modules(path):
    """Names of the modules that a file imports, anywhere in it; of a package's names those that are modules."""
    return tuple(_modules(path))


def _modules(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [name for name in inner if file_of(name)]
            yield from found
            if len(found) < len(inner):
                yield node.module


def file_of(module):
    """The file of one of our modules, None of others."""
    path = ROOT / module.replace(".", "/")
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def floor_of(room):
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def crossings():
    """(importing file, imported module) of all imports from one room into another."""
    for path in SOURCES:
        for module in set(modules(path)):
            file = file_of(module)
            if module.startswith("pipelines.") and file and room_of(file) != room_of(path):
                yield path, module


def test_every_room_has_a_floor():
    rooms = {room_of(path) for path in SOURCES} - {"__init__"}
    assert rooms == set().union(*FLOORS)


def test_arrows_run_down():
    up = [
        f"{name_of(path)} imports {module}"
        for path, module in crossings()
        if floor_of(room_of(file_of(module))) >= floor_of(room_of(path))
        and (name_of(path.parent), module) not in EXCEPTIONS
    ]
    assert up == []


def test_what_travels_to_a_cluster_imports_nothing_that_stays_at_home():
    def stays(path):
        return name_of(path).startswith(AT_HOME)

    left = [f"{name_of(path)} imports {module}" for path, module in crossings() if stays(file_of(module)) > stays(path)]
    assert left == []


def test_a_room_says_what_it_is_for_and_shows_what_others_use():
    for folder in {path.parent for path in SOURCES} - {ROOT / "pipelines"}:
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        assert 2 <= len(text.splitlines()) <= 5, folder
        files = {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__"}
        named = set(re.findall(r"`(\w+)`", text))
        if room_of(folder / "x.py") in STAGES + TOOLS:
            assert files <= named | {"__main__"}, (folder, files - named)
    hidden = {
        f"{module} (in {name_of(path)})"
        for path, module in crossings()
        if module.count(".") > 1
        and f"`{module.rpartition('.')[2]}`" not in (file_of(module).parent / "__init__.py").read_text()
    }
    assert hidden == set()


def decisive(stage):
    """Files that decide a stage's result: what its command imports, looking no further than CARRIERS.

    params/ is one of them, but not what it imports: a stage that depends on the networks' defaults imports them.
    """
    found, waiting = set(), [ROOT / "pipelines" / stage / "__main__.py"]
    while waiting:
        path = waiting.pop()
        if path in found or name_of(path).startswith(CARRIERS):
            continue
        found.add(path)
        if not name_of(path).startswith("pipelines/params/"):
            waiting += filter(None, map(file_of, modules(path)))
    return {path for path in found if name_of(path) != "pipelines/__init__.py"}


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_knows_what_decides_a_stage(stage):
    file = ROOT / ("pipelines/generate/dvc.yaml" if stage == "generate" else "dvc.yaml")
    deps = yaml.safe_load(file.read_text())["stages"][stage]["deps"]
    code = [dep for dep in deps if dep.startswith(("pipelines/", "ssd"))]
    assert code == sorted(code)
    files = {path for path in decisive(stage) if path.name != "__init__.py" or path.stat().st_size}
    covered = {dep: {p for p in files if name_of(p) == dep or name_of(p).startswith(f"{dep}/")} for dep in code}
    missing = {name_of(p) for p in files - set().union(*covered.values()) if p.name != "__init__.py"}
    assert missing == set()
    assert [dep for dep, some in covered.items() if not some] == []
    assert not [dep for dep in code if dep.startswith(CARRIERS) or dep.rstrip("/") + "/" in CARRIERS]


def test_ssd_imports_with_everything_else_blocked(monkeypatch):
    """Imports `ssd` anew, in this process: PyTorch is there, and what is blocked is forgotten meanwhile."""
    blocked = {"ray", "mlflow", "dvc", "pyarrow", "yaml", "pydantic", "hotcoco", "pipelines"}

    class Block:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name.split(".")[0] in blocked:
                raise ImportError(f"{name} is blocked")

    def forget():
        names = [name for name in sys.modules if name.split(".")[0] in blocked | {"ssd"}]
        return {name: sys.modules.pop(name) for name in names}

    monkeypatch.setattr(sys, "meta_path", [Block, *sys.meta_path])
    forgotten = forget()
    try:
        package = importlib.import_module("ssd")
        found = [module.name for module in pkgutil.walk_packages(package.__path__, "ssd.")]
        for name in found:
            importlib.import_module(name)
    finally:
        forget()
        sys.modules.update(forgotten)
    assert {"ssd.boxes", "ssd.backbones.tiny"} <= set(found)


@pytest.mark.parametrize("path", sorted((ROOT / "ssd").glob("*.py")), ids=lambda p: p.name)
def test_ssd_needs_torch_torchvision_numpy_and_pillow_alone(path):
    allowed = {"ssd", "torch", "torchvision", "numpy", "PIL", *sys.stdlib_module_names}
    assert {name.split(".")[0] for name in modules(path)} <= allowed


def test_the_environment_is_read_in_one_place():
    reads = re.compile(r"\benviron\b|\bgetenv\b")
    found = {name_of(p) for p in SOURCES if reads.search(re.sub(r"#.*", "", p.read_text(encoding="utf-8")))}
    assert found <= {"pipelines/settings.py"}
