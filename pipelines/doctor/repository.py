"""git and DVC: what `dvc repro` reads before it runs anything, and what of it can be looked at without DVC."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipelines.errors import first_line
from pipelines.preflight.findings import Finding, error, guarded, ok, warning
from pipelines.preflight.machine import GIB, free_bytes
from pipelines.strict_yaml import parse_yaml
from pipelines.tracking import provenance

CONFLICT = "<<<<<<<"


def check(root: Path) -> Iterator[Finding]:
    """The cheap part: DVC's files, and the data."""
    if not (root / ".dvc").is_dir():
        yield error("DVC", f"{root}: no DVC repository", "run from the project's folder, or `git checkout .dvc`")
        return
    in_git = any((folder / ".git").exists() for folder in (root.resolve(), *root.resolve().parents))
    if not in_git and "no_scm" not in (root / ".dvc/config").read_text(encoding="utf-8"):
        yield error("DVC", "no git repository, which DVC wants", "`git init`, or `dvc config core.no_scm true`")
    broken = list(unreadable(root))
    yield from broken or [ok("DVC", "its files can be read")]
    if not broken:
        yield data(root)
        yield from room(root, free_bytes(root))


def unreadable(root: Path) -> Iterator[Finding]:
    """DVC's files that are not YAML, as after a merge."""
    for path in [root / "dvc.yaml", root / "dvc.lock", *sorted(root.glob("*.dvc"))]:
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            if not isinstance(yaml.safe_load(text), dict):
                raise ValueError("no mapping")
        except (yaml.YAMLError, ValueError) as problem:
            merging = any(line.startswith(CONFLICT) for line in text.splitlines())
            reason = "a merge conflict" if merging else f"not YAML: {first_line(problem)}"
            fix = "resolve it" if merging else "mend it"
            yield error("DVC", f"{path.name}: {reason}", f"{fix}, or `git checkout {path.name}`")


def data(root: Path) -> Finding:
    """The raw data: here, in DVC's cache, or where they can come from."""
    file = root / "data.dvc"
    if not file.is_file():
        if (root / "data").is_dir():
            return ok("data", "data/, which DVC does not track")
        return error("data", "neither data/ nor data.dvc", "`dvc import-url /path/to/photographs data`")
    tracked = load(file)
    out, source = tracked["outs"][0], next(iter(tracked.get("deps", [])), {}).get("path", "")
    if (root / "data").exists():
        return ok("data", f"data/, {out.get('nfiles', 'some')} files by data.dvc")
    digest = out.get("md5", "")
    if (root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]).is_file():
        return ok("data", "in DVC's cache; `dvc repro` brings it back")
    if source and ("://" in source or (root / source).exists() or source in outputs(root)):
        return ok("data", f"not here yet; `dvc repro` brings it from {source}")
    if source:
        said = f"data/ is not here, and neither is {source}, where it came from"
        return error("data", said, "`dvc pull`, or import it again: `dvc import-url /path/to/photographs data`")
    return error("data", "data/ is not here, and not in DVC's cache", "`dvc pull` from where it was pushed to")


def room(root: Path, free: int) -> Iterator[Finding]:
    """Disk for data and shards, each in its folder and in DVC's cache; nothing where the size is not known."""
    size = (load(root / "data.dvc").get("outs") or [{}])[0].get("size", 0)
    lacking = [name for name in ("data", "artifacts/prepared") if not (root / name).exists()]
    due = 2 * size * len(lacking)
    said = f"{free / GIB:.1f} GiB free, {' and '.join(lacking)} need about {due / GIB:.1f} with DVC's cache"
    if due > free:
        yield error("DVC's disk", said, "make room, or put the cache elsewhere: `dvc cache dir /path`")
    elif due:
        yield ok("DVC's disk", said)


def outputs(root: Path) -> set[str]:
    """Paths from the root that stages write."""
    found = set()
    for file in [root / "dvc.yaml", *root.glob("pipelines/*/dvc.yaml")]:
        for stage in (load(file).get("stages") or {}).values() if file.is_file() else ():
            folder = file.parent / stage.get("wdir", ".")
            for out in stage.get("outs", []):
                path = (folder / (out if isinstance(out, str) else next(iter(out)))).resolve()
                found.add(str(path.relative_to(root.resolve())))
    return found


def load(path: Path) -> dict[str, Any]:
    """A YAML file of DVC's; {} where there is none."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {} if path.is_file() else {}


def locked(root: Path, stage: str) -> dict[str, Any]:
    """What dvc.lock says of a stage."""
    return (load(root / "dvc.lock").get("stages") or {}).get(stage, {})


def changed(root: Path, stage: str) -> list[str]:
    """Sections of params.yaml that are not those that a stage was run with."""
    before = locked(root, stage).get("params", {}).get("params.yaml", {})
    now = parse_yaml((root / "params.yaml").read_text(encoding="utf-8"))
    return [name for name, value in before.items() if now.get(name) != value]


def prepared_of_another(root: Path) -> str:
    """Why artifacts/prepared is not what `dvc repro` would make; empty where it is, as far as is cheap to say."""
    stage = locked(root, "prepare")
    if not stage:
        return "`dvc repro` has not made it"
    if sections := changed(root, "prepare"):
        return f"{', '.join(sections)} in params.yaml changed since"
    tracked = (load(root / "data.dvc").get("outs") or [{}])[0].get("md5")
    if tracked not in [dep.get("md5") for dep in stage["deps"] if dep["path"] == "data"]:
        return "data.dvc changed since"
    return ""


def check_further(root: Path) -> Iterator[Finding]:
    """What takes longer, or is worth a line only to those who ask."""
    yield git()
    if not (root / ".dvc").is_dir():
        return
    if (root / "dvc.lock").is_file() and (root / "params.yaml").is_file():
        yield to_run(root)
        yield from tuned(root)
    yield from guarded("DVC remote", lambda: [remote(root)])


def git() -> Finding:
    """Whether a result could be traced to a commit."""
    found = provenance.tags()
    if "mlflow.source.git.commit" not in found:
        said = "no git commit: runs in MLflow will not say which code made them"
        return warning("git", said, "`git init && git add -A && git commit`, or install git")
    commit = found["mlflow.source.git.commit"][:7]
    if found.get("git.dirty") == "true":
        said = f"uncommitted changes over {commit}: runs are marked as dirty"
        return warning("git", said, "`git commit` before a run whose result shall be kept")
    return ok("git", f"commit {commit}, nothing changed")


def to_run(root: Path) -> Finding:
    """Stages whose parameters are not those of dvc.lock."""
    stages = {name: sections for name in load(root / "dvc.lock").get("stages", {}) if (sections := changed(root, name))}
    said = "; ".join(f"{name} ({', '.join(sections)})" for name, sections in stages.items())
    return ok("dvc.lock", f"parameters changed since, will run again: {said}" if said else "of these parameters")


def tuned(root: Path) -> Iterator[Finding]:
    """Whether tuned.yaml was searched on the prepared data."""
    written = [out["md5"] for out in locked(root, "prepare").get("outs", []) if out["path"] == "artifacts/prepared"]
    read = [dep["md5"] for dep in locked(root, "tune").get("deps", []) if dep["path"] == "artifacts/prepared"]
    overrides = load(root / "artifacts/tune/tuned.yaml").get("overrides")
    if overrides and written and read and written != read:
        said = f"artifacts/tune/tuned.yaml was searched on other data: {', '.join(overrides)}"
        fix = "`dvc repro` searches anew; `ssd train` alone would take it as it is"
        yield warning("tuned", said, fix)


def remote(root: Path) -> Finding:
    """DVC's remote: whether it answers."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        name = repo.config["core"].get("remote")
        if not name:
            return ok("DVC remote", "none: data and results stay on this machine (`dvc remote add -d`)")
        try:
            storage = repo.cloud.get_remote_odb(name)
            local = storage.fs.protocol == "local"
            place = storage.path.removesuffix("/files/md5") if local else storage.fs.parts(storage.path)[0]
            storage.fs.ls(place)
        except FileNotFoundError:
            return error_of_remote(name, f"{place} does not exist")
        except Exception as problem:  # each kind of storage has errors of its own
            return error_of_remote(name, first_line(problem))
    return ok("DVC remote", f"{name} answers")


def error_of_remote(name: str, reason: str) -> Finding:
    """The remote cannot be used: nothing stops, but `dvc push` and `dvc pull` do not work."""
    return warning("DVC remote", f"{name}: {reason}", f"see `dvc remote list`; `dvc remote modify {name} …`")
