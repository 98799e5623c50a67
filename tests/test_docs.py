"""What the README and the pages of docs/ name exists: links, commands, targets, files, variables, parameters, rooms."""

import re
from pathlib import Path

import pytest
import yaml

from pipelines.__main__ import names
from pipelines.params import load_params
from pipelines.settings import FOR_JOBS, variables
from tests.conftest import TINY, write_params

ROOT = Path(__file__).parents[1]
PAGES = [*map(ROOT.joinpath, ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "benchmarks/README.md", ROOT / "infra/README.md", ROOT / "infra/SCALING.md"]
FOLDERS = ("ssd", "pipelines", "tests", "infra", "benchmarks", "docs")
MADE_BY_USERS = {"infra/.env"}
PRINT_ROWS = """python -c 'from pipelines.settings import variables
for name, meaning in variables().items(): print(f"| `{name}` | {meaning} |")'"""


def read(path):
    return path.read_text(encoding="utf-8")


def name_of(path):
    return str(path.relative_to(ROOT))


def without_code(text):
    """Text without code blocks and code spans, which hold no links."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def code(text):
    """All code blocks and code spans."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    return blocks + spans


def anchors(path):
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", read(path), flags=re.DOTALL | re.MULTILINE), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dotted(nested, prefix=""):
    for key, value in nested.items():
        yield from dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]


def rooms():
    """Folders and files directly in pipelines/, as the tree names them."""
    for path in (ROOT / "pipelines").iterdir():
        if path.suffix == ".py" and path.name != "__init__.py":
            yield path.name
        elif path.is_dir() and any(path.glob("*.py")):
            yield f"{path.name}/"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        if "://" not in target and not (linked.exists() and (not anchor or anchor in anchors(linked))):
            broken.append(target)
    assert broken == []


def test_the_readme_links_to_every_page():
    linked = set(re.findall(r"\]\((docs/[^)#]+\.md)", without_code(read(ROOT / "README.md"))))
    assert linked == {name_of(path) for path in (ROOT / "docs").glob("*.md")}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_modules_that_are_run_can_be_run(page):
    for module in re.findall(r"python -m ((?:pipelines|benchmarks|infra|tests)[\w.]*\w)", read(page)):
        path = ROOT / module.replace(".", "/")
        file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        assert file.exists(), module
        assert file.name == "__main__.py" or '__name__ == "__main__"' in read(file), module


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), re.MULTILINE))
    commands = "\n".join(code(read(page)))
    assert set(re.findall(r"^(?:.*&& )?make ([a-z][a-z-]*)", commands, re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_exist(page):
    words = {word.rstrip(".,;:") for part in code(read(page)) for word in part.split()}
    paths = {word for word in words if re.fullmatch(rf"(?:{'|'.join(FOLDERS)})/[\w./-]+", word)}
    assert {path for path in paths - MADE_BY_USERS if not (ROOT / path).exists()} == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_outputs_are_those_of_stages_and_tools(page):
    stages = yaml.safe_load(read(ROOT / "dvc.yaml"))["stages"].values()
    declared = [out for stage in stages for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
    known = {out if isinstance(out, str) else next(iter(out)) for out in declared}
    source = "".join(read(path) for path in (ROOT / "pipelines").rglob("*.py"))
    for path in {word for part in code(read(page)) for word in re.findall(r"\bartifacts/[\w./-]*\w", part)}:
        written = path in known or any(out.startswith(f"{path}/") or path.startswith(f"{out}/") for out in known)
        assert written or f'"{path}"' in source, path


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist(page):
    without_output = re.sub(r"^```text\n.*?^```", "", read(page), flags=re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"^(?:.*&& )?ssd ([a-z]+)", "\n".join(code(without_output)), re.MULTILINE))
    assert named <= set(names())


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_our_variables_exist(page):
    named = set(re.findall(r"\bSSD_[A-Z_]*[A-Z]", read(page)))
    assert {name for name in named if not f"{name}_".startswith(FOR_JOBS)} <= set(variables())


def test_the_table_of_variables_is_that_of_the_settings():
    table = re.search(r"^\| variable \|.*\n\|[-|]+\n((?:\|.*\n)+)", read(ROOT / "docs/cluster.md"), re.MULTILINE)
    due = [f"| `{name}` | {meaning} |" for name, meaning in variables().items()]
    assert table[1].splitlines() == due, f"docs/cluster.md: put these rows in place of its own:\n{PRINT_ROWS}"


def test_the_tree_names_every_room():
    (tree,) = re.findall(r"^pipelines/\n(.*?)^infra/", read(ROOT / "docs/how-it-works.md"), re.DOTALL | re.MULTILINE)
    named = re.findall(r"^  (\S+)  +\S", tree, re.MULTILINE)
    assert sorted(named) == sorted(rooms()), "docs/how-it-works.md: the tree has a line for each room of pipelines/"


def test_the_table_of_what_is_in_git_has_all_that_dvc_leaves_to_git():
    stages = yaml.safe_load(read(ROOT / "dvc.yaml"))["stages"].values()
    outs = [out for stage in stages for kind in ("outs", "metrics") for out in stage.get(kind, [])]
    uncached = {path for out in outs if isinstance(out, dict) for path, how in out.items() if how.get("cache") is False}
    table = re.search(r"^\| in git \|.*\n\|[-|]+\n((?:\|.*\n)+)", read(ROOT / "docs/how-it-works.md"), re.MULTILINE)
    assert uncached <= set(re.findall(r"^\| `(\S+)`", table[1], re.MULTILINE))


def test_the_parameters_of_the_example_are_valid(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", read(ROOT / "docs/own-data.md"), re.DOTALL)
    changes = dict(dotted(yaml.safe_load(block)))
    params = load_params(write_params(tmp_path / "params.yaml", changes))
    assert params.train.epochs == changes["train.epochs"]
    assert params.prepare.train == ["trainval"]
    assert set(changes) - set(TINY)  # the block was read
