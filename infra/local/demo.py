"""The pipeline on a cluster and on one machine, side by side: `make demo-cluster`.

Starts the cluster of `infra.local.cluster`, or takes the one that is up. A copy of the project in a folder of its own
then runs `dvc repro` as a laptop outside the cluster would: tune, train and evaluate are jobs, and all data go through
S3. Another copy runs the same on this machine alone. Shown are times, nodes, what each node keeps on its disk, and
whether metrics and weights are the same to the last bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from infra.local.cluster import BIN, FOLDER, down, up
from pipelines.command import CommandParser, command
from pipelines.settings import ROOT

# Small enough for a few minutes on two cores; what is compared does not depend on the size.
SMALL = {
    "generate": {"train": 160, "val": 40},
    "model": {"image_size": [128, 128]},
    "train": {"epochs": 4},
    "tune": {"trials": 2, "epochs": 1, "seeds": 1},
}
WORKERS = {"SSD_WORKERS": "2", "SSD_CPUS_PER_WORKER": "1"}
RESULTS = ("artifacts/train/model.pt", "artifacts/evaluate/metrics.json", "artifacts/tune/tuned.yaml")


@command("demo-cluster", "the same command begins anew")
def main() -> int:
    """Show it; the exit status is 1 if the results differ."""
    parser = CommandParser(prog="python -m infra.local.demo", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the cluster (default: %(default)s)")
    args = parser.parse_args()
    ours = not (args.folder / "pids.json").exists()
    if ours:
        up(args.folder)
    try:
        same = show(args.folder)
    finally:
        if ours:
            down(args.folder)
    return 0 if same else 1


def show(cluster: Path) -> bool:
    """Run both, and print what is to be seen; whether the results are the same."""
    client = read_exports(cluster / "env.sh")
    with tempfile.TemporaryDirectory(prefix="ssd-demo-") as folder:
        seconds, digests = {}, {}
        for name, environment in (("cluster", client), ("one machine", {})):
            print(f"\n=== dvc repro, {name}", flush=True)
            project = Path(folder) / name.replace(" ", "-")
            copy_project(project)
            started = time.monotonic()
            path = {"PATH": f"{BIN}:{os.environ['PATH']}"}
            subprocess.run(["dvc", "repro"], cwd=project, env={**clean(), **path, **environment, **WORKERS}, check=True)
            seconds[name] = time.monotonic() - started
            digests[name] = {file: hashlib.sha256((project / file).read_bytes()).hexdigest() for file in RESULTS}
        metrics = json.loads((project / "artifacts/evaluate/metrics.json").read_text())
    print("\n=== nodes: address, state, CPUs, what Ray and its jobs keep on the node's own disk")
    for number, node in enumerate(nodes(client)):
        own = [cluster / f"home-{number}", cluster / f"ray-{number}"]
        size = sum(size_of(one) for one in own)
        print(f"  {node['node_ip']:15} {node['state']:6} {node['cpus']:3.0f} CPUs {size / 1e6:8.1f} MB", flush=True)
    print("\n=== results")
    for name, taken in seconds.items():
        print(f"  {name}: {taken // 60:.0f} min {taken % 60:.0f} s")
    first, second = digests.values()
    for file in RESULTS:
        verdict = "the same" if first[file] == second[file] else "DIFFERENT"
        print(f"  {file}: {verdict} ({first[file][:12]}, {second[file][:12]})")
    print(f"  AP {metrics['map']:.3f} on so few pictures after so few epochs")
    return first == second


def clean() -> dict[str, str]:
    """This process's environment without what says where the pipeline runs."""
    ours = ("RAY_", "SSD_", "AWS_", "MLFLOW_", "STORAGE_URI")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def read_exports(file: Path) -> dict[str, str]:
    """The variables of a file of `export NAME=value`."""
    pairs = (word.partition("=") for line in file.read_text().splitlines() for word in shlex.split(line)[1:])
    return {name: value for name, _, value in pairs}


def copy_project(folder: Path) -> None:
    """Copy what git knows of the project, with small parameters, and without results."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("artifacts/", "tests/", "docs/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for lock in folder.rglob("dvc.lock"):
        lock.unlink()
    params: dict[str, Any] = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    for section, changes in SMALL.items():
        params[section] |= changes
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)


def nodes(client: dict[str, str]) -> list[dict[str, Any]]:
    """The nodes that Ray's dashboard knows, the head first."""
    request = urllib.request.Request(
        f"{client['RAY_ADDRESS']}/api/v0/nodes", headers={"Authorization": f"Bearer {client['RAY_AUTH_TOKEN']}"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        found = json.load(answer)["data"]["result"]["result"]
    rows = [one | {"cpus": (one.get("resources_total") or {}).get("CPU", 0)} for one in found]
    return sorted(rows, key=lambda row: (not row["is_head_node"], row["node_name"]))


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder that are there all the time while it is looked at."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.lstat().st_size if file.is_file() and not file.is_symlink() else 0
        except OSError:
            continue
    return total


if __name__ == "__main__":
    main()
