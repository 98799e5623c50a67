"""All checks: the cheap ones one after the other, those of the network side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pipelines.cluster.jobs import requested as submitted
from pipelines.doctor import cluster, gpu, jobs, repository, storage, tracking
from pipelines.params import PARAMS_FILE, Draft, Params, load_draft
from pipelines.preflight import estimates, machine, packages, parameters
from pipelines.preflight.findings import Finding, error, guarded, ok
from pipelines.recipe.resolve import resolve_for
from pipelines.settings import home, settings
from pipelines.store.shards import MANIFEST, PREPARED, Manifest, ShardError, read_manifest

SECONDS = 30  # that a check of the network may take; Ray's has more


def cheap(root: Path) -> tuple[list[Finding], Params | None, Manifest | None]:
    """What needs no network; and the parameters and the prepared data, where they can be used.

    Raises:
        SettingsError: a variable cannot be used; without them nothing can be checked.
    """
    home()
    read: dict[str, Draft] = {}
    found = guarded("parameters", read_draft, read)
    draft = read.get("draft")
    manifest, said = read_prepared(root)
    chosen: list[Params] = []
    if draft is not None:
        found += guarded("parameters", resolve_draft, draft, manifest, chosen)
    params = chosen[0] if chosen else None
    found += guarded("packages", packages.check, root)
    found += guarded("machine", machine.check, params, manifest)
    found += guarded("DVC", repository.check, root) + said
    if draft is not None and params is not None and manifest is not None:
        found += guarded("parameters", parameters.check, params, manifest, PREPARED, draft.auto)
    found += guarded("MLflow", tracking.check_file)
    return found, params, manifest


def read_draft(into: dict[str, Draft]) -> Iterator[Finding]:
    """params.yaml by itself; what tune hands over is looked at where it is used."""
    into["draft"] = load_draft(PARAMS_FILE)
    yield ok("parameters", f"{PARAMS_FILE}: valid")


def resolve_draft(draft: Draft, manifest: Manifest | None, into: list[Params]) -> Iterator[Finding]:
    """What `auto` becomes; without data the defaults stand in for it, so that the machine can be checked."""
    if not draft.auto or manifest is None:
        into.append(draft.base)
        return
    recipe = resolve_for(draft, manifest, PREPARED)
    into.append(recipe.params())
    for choice in recipe.choices:
        yield ok("auto", str(choice))


def read_prepared(root: Path) -> tuple[Manifest | None, list[Finding]]:
    """The prepared data that the stages will train on; None where `dvc repro` makes other ones first."""
    if not (PREPARED / MANIFEST).is_file():
        return None, [ok("prepared", "no data yet: `dvc repro prepare` makes it, then more can be checked")]
    try:
        outdated = repository.prepared_of_another(root)
        if not outdated:
            return read_manifest(PREPARED), []
    except ShardError as problem:
        return None, [error("prepared", str(problem), "")]
    except Exception:  # DVC's files cannot be read: `repository.check` names them
        return None, []
    return None, [ok("prepared", f"{PREPARED} will be made anew: {outdated}")]


def side_by_side(checks: dict[str, Callable[[], Iterable[Finding]]], seconds: float = SECONDS) -> list[Finding]:
    """The findings of all checks, in their order; one that does not end in time is a finding."""
    found: dict[str, list[Finding]] = {}

    def run(name: str) -> None:
        found[name] = guarded(name, checks[name])

    threads = {name: threading.Thread(target=run, args=[name], daemon=True) for name in checks}
    for thread in threads.values():
        thread.start()
    for name, thread in threads.items():
        thread.join(seconds + (cluster.SECONDS if name == "Ray" else 0))
        if thread.is_alive():
            found[name] = [error(name, f"no answer within {seconds:.0f} s", "see the address, or the firewall")]
    return [finding for name in checks for finding in found[name]]


def thorough(root: Path, params: Params | None, manifest: Manifest | None) -> list[Finding]:
    """What takes longer, side by side."""

    def of_gpu() -> Iterable[Finding]:
        facts = gpu.gather()
        workers = max(settings().workers or (len(facts.devices), 1))
        step = estimates.step_bytes(params, len(manifest.classes), workers) if params and manifest else 0
        return gpu.examine(facts, settings().use_gpu, params.train.precision if params else "fp32", step)

    checks: dict[str, Callable[[], Iterable[Finding]]] = {
        "git": lambda: repository.check_further(root),
        "MLflow": tracking.check,
        "S3": storage.check,
        "GPU": of_gpu,
        "Ray": jobs.check if submitted() else cluster.check,
    }
    return side_by_side(checks)


def examine(root: Path, quick: bool) -> list[Finding]:
    """All findings.

    Raises:
        SettingsError: as of `cheap`.
    """
    found, params, manifest = cheap(root)
    return found if quick else found + thorough(root, params, manifest)
