"""A project's folder as the doctor finds it: good, to be broken in one place."""

import shutil

import yaml

from pipelines.params import load_params
from pipelines.store.shards import VERSION, Manifest, Shard, Split, digest
from tests.conftest import ROOT, write_params

DATA = "0123456789abcdef0123456789abcdef.dir"  # DVC's digest of the raw data
PREPARED = "1123456789abcdef0123456789abcdef.dir"


def split(images, boxes, shards=()):
    """A split of so many images, with `boxes` by class."""
    total = sum(boxes.values())
    return Split(
        images=images,
        boxes=total,
        boxes_per_class=boxes,
        images_without_boxes=0,
        difficult=0,
        crowds=0,
        box_sizes_pixels={},
        box_sizes_unit={},
        shards=list(shards),
    )


def manifest(train=1000, val=100, test=100, classes=("banana",), boxes=None):
    """Prepared data of the default's size, an image with a box of each class; `boxes`: others, by split and class."""
    sizes = {"train": train, "val": val, "test": test}
    splits = {
        name: split(
            images,
            {label: (boxes or {}).get(name, {}).get(label, images) for label in classes},
            [Shard(path=f"{name}.parquet", rows=images, bytes=1, sha256=name)],
        )
        for name, images in sizes.items()
        if images is not None
    }
    return Manifest(
        version=VERSION,
        layout="bananas",
        classes=list(classes),
        digest=digest(classes, splits),
        quarantined=0,
        splits=splits,
    )


class Project:
    """A folder with params.yaml, DVC's files and the manifest of prepared data that belong together."""

    def __init__(self, folder):
        self.folder, self.changes, self.of_manifest = folder, {}, {}
        (folder / ".dvc").mkdir(parents=True)
        (folder / ".dvc/config").touch()
        (folder / ".git").mkdir()
        (folder / "data").mkdir()
        for name in ("dvc.yaml", "requirements.lock"):
            shutil.copy(ROOT / name, folder / name)
        self.write_yaml("data.dvc", {"deps": [{"path": "elsewhere"}], "outs": [{"path": "data", "md5": DATA}]})
        self.set()

    def set(self, params=(), **of_manifest):
        """Other parameters by dotted names, and other prepared data, beside those set before."""
        self.changes |= dict(params)
        self.of_manifest |= of_manifest
        write_params(self.folder / "params.yaml", self.changes)
        prepared = self.folder / "artifacts/prepared"
        prepared.mkdir(parents=True, exist_ok=True)
        (prepared / "manifest.json").write_text(manifest(**self.of_manifest).model_dump_json())
        self.lock()

    def lock(self, **digests):
        """dvc.lock of the parameters as they are; `digests` are others of what a stage read or wrote."""
        now = yaml.safe_load((self.folder / "params.yaml").read_text())
        params = {name: {"params.yaml": {key: now[key] for key in keys}} for name, keys in SECTIONS.items()}
        stages = {
            "prepare": {
                "deps": [{"path": "data", "md5": digests.get("data", DATA)}],
                "params": params["prepare"],
                "outs": [{"path": "artifacts/prepared", "md5": PREPARED}],
            },
            "tune": {
                "deps": [{"path": "artifacts/prepared", "md5": digests.get("searched", PREPARED)}],
                "params": params["tune"],
            },
        }
        self.write_yaml("dvc.lock", {"schema": "2.0", "stages": stages})

    def write_yaml(self, name, content):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    @property
    def params(self):
        return load_params(self.folder / "params.yaml")


SECTIONS = {"prepare": ("prepare", "seed"), "tune": ("train", "tune")}


def wrong(findings):
    """(check, state) of what is not well."""
    return [(finding.check, finding.state) for finding in findings if finding.state != "ok"]
