import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageEnhance
from scipy.ndimage import gaussian_filter

from pipelines.prepare.report import duplicates
from pipelines.prepare.report.duplicates import (
    DISTANCE,
    SIDE,
    VIEWS,
    Match,
    Pair,
    Thumbnails,
    find_duplicates,
    hash_of,
    leaks,
    name_pairs,
    near,
    shrink,
    turn,
    turn_hash,
)
from ssd.images import preview
from tests.conftest import BCCD, needs_bccd


def scene(seed: int) -> Image.Image:
    """A picture of clouds at several scales, unlike that of any other seed."""
    noise = np.random.default_rng(seed).normal(size=(120, 160, 3))
    layers = sum(gaussian_filter(noise, (s, s, 0)) * s for s in (2, 5, 12, 30))
    return Image.fromarray((128 + 55 * layers / layers.std()).clip(0, 255).astype(np.uint8))


def seen(image: Image.Image, quality: int = 90) -> np.ndarray:
    """What prepare keeps of a picture, as a JPEG."""
    image.save(buffer := io.BytesIO(), "JPEG", quality=quality)
    return shrink(preview(buffer.getvalue()).pixels)


def cropped(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = image.size
    return image.crop((int(left * width), int(top * height), int(right * width), int(bottom * height)))


T = Image.Transpose
COPIES = {
    "same": lambda image: seen(image),
    "half the size": lambda image: seen(image.resize((image.width // 2, image.height // 2))),
    "compressed": lambda image: seen(image, quality=30),
    "brighter": lambda image: seen(ImageEnhance.Brightness(image).enhance(1.1)),
    "cropped": lambda image: seen(cropped(image, 0.025, 0.025, 0.975, 0.975)),
    "mirrored": lambda image: seen(image.transpose(T.FLIP_LEFT_RIGHT)),
    "upside down": lambda image: seen(image.transpose(T.FLIP_TOP_BOTTOM)),
    "turned by 180°": lambda image: seen(image.transpose(T.ROTATE_180)),
    "turned by 90°": lambda image: seen(image.transpose(T.ROTATE_90)),
    "turned by 270°": lambda image: seen(image.transpose(T.ROTATE_270)),
    "transposed": lambda image: seen(image.transpose(T.TRANSPOSE)),
    "transverse": lambda image: seen(image.transpose(T.TRANSVERSE)),
}
SCENES = [scene(seed) for seed in range(30)]


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_found_and_nothing_else(kind):
    thumbnails = np.stack([seen(image) for image in SCENES] + [COPIES[kind](image) for image in SCENES])
    pairs = find_duplicates(thumbnails)
    found = {(pair.first, pair.second) for pair in pairs}
    wanted = {(index, index + 30) for index in range(30)}
    assert found <= wanted
    assert len(found) >= (27 if kind == "cropped" else 30)
    views = {pair.view for pair in pairs}
    assert views == ({kind} if kind in VIEWS else {""})


def test_a_bright_sky_in_common_is_no_duplicate():
    def under_sky(seed):
        picture = np.array(SCENES[seed].resize((96, 96))) // 3
        picture[:48] = np.linspace(200, 255, 48)[:, None, None]
        return shrink(picture)

    first, second = under_sky(0), under_sky(1)
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.9
    assert find_duplicates(np.stack([first, second])) == []


@pytest.mark.parametrize("view", VIEWS)
def test_the_hash_of_a_view_is_that_of_the_turned_picture(view):
    thumbnails = np.random.default_rng(0).integers(0, 256, (50, SIDE, SIDE), np.uint8)
    assert (turn_hash(hash_of(thumbnails), view) == hash_of(np.ascontiguousarray(turn(thumbnails, view)))).all()


@pytest.mark.parametrize("many", [50_000, 10])
def test_no_pair_within_the_distance_is_missed(monkeypatch, many):
    monkeypatch.setattr(duplicates, "MANY", many)
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 1 << 63, 3000, np.uint64)
    reach = DISTANCE if many > 3000 else 7  # four bands of which one differs in at most 2, or 1 bits
    for index in range(1000):
        flips = rng.choice(63, rng.integers(0, reach + 1), replace=False)
        hashes[1000 + index] = hashes[index] ^ np.uint64(sum(1 << int(bit) for bit in flips))
    first, second, distance = near(hashes, hashes)
    assert (np.bitwise_count(hashes[first] ^ hashes[second]) == distance).all()
    found = set(zip(first.tolist(), second.tolist()))
    assert {(index, index + 1000) for index in range(1000)} <= found
    assert all(i < j for i, j in found)
    if many > 3000:
        i, j = np.triu_indices(3000, 1)
        close = np.bitwise_count(hashes[i] ^ hashes[j]) <= DISTANCE
        assert found == set(zip(i[close].tolist(), j[close].tolist()))


def test_a_still_camera_gives_some_neighbours_of_each_and_not_all_pairs():
    thumbnails = np.repeat(seen(SCENES[0])[None], 400, 0)
    pairs = find_duplicates(thumbnails)
    assert {pair.second for pair in pairs} == set(range(1, 400))
    assert len(pairs) < 400 * 100


@pytest.mark.parametrize("count", [0, 1])
def test_none_and_one(count):
    assert find_duplicates(np.zeros((count, SIDE, SIDE), np.uint8)) == []


def test_pictures_of_one_colour_are_not_compared():
    assert find_duplicates(np.stack([np.full((SIDE, SIDE), value, np.uint8) for value in (0, 9, 200, 200)])) == []


def test_thumbnails_are_kept_in_order_and_leave_nothing(tmp_path):
    some = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE), np.uint8)
    with Thumbnails(tmp_path) as thumbnails:
        for index, thumbnail in enumerate(some):
            thumbnails.add(thumbnail, turned=index > 2)
        assert (thumbnails.read() == some).all()
        assert thumbnails.turned == 2
    assert list(tmp_path.iterdir()) == []
    with Thumbnails(tmp_path) as thumbnails:
        assert thumbnails.read().shape == (0, SIDE, SIDE)


def test_pairs_are_named_leaks_first_and_leaks_counted():
    ids = {"train": pa.array(["a", "b"]), "val": pa.array([], pa.string()), "test": pa.array(["c", "d"])}
    pairs = [Pair(0, 1, "", 0, 1.0), Pair(0, 2, "mirrored", 3, 0.9), Pair(1, 2, "", 5, 0.85)]
    matches = name_pairs(pairs, ids)
    assert matches == [
        Match("train", "a", "test", "c", "mirrored", 3, 0.9),
        Match("train", "b", "test", "c", "", 5, 0.85),
        Match("train", "a", "train", "b", "", 0, 1.0),
    ]
    assert leaks(matches) == {"test": {"train": 1}}  # one photograph of test, whatever it was copied from


@needs_bccd
def test_bccd_has_one_pair_and_its_planted_copies_are_found():
    files = sorted((BCCD / "VOC2007" / "JPEGImages").iterdir())[:120]
    thumbnails = [shrink(preview(file.read_bytes()).pixels) for file in files]
    known = [(files[p.first].stem, files[p.second].stem) for p in find_duplicates(np.stack(thumbnails))]
    assert known == [("BloodImage_00037", "BloodImage_00038")]
    for index in range(0, 120, 4):
        with Image.open(files[index]) as image:
            thumbnails += [copy(image.convert("RGB")) for copy in COPIES.values()]
    pairs = find_duplicates(np.stack(thumbnails))
    owners = [*range(120), *(index for index in range(0, 120, 4) for _ in COPIES)]
    found = {(owners[p.first], owners[p.second]) for p in pairs}
    missed = [n for n in range(120, len(thumbnails)) if not any(p.second == n and owners[n] == p.first for p in pairs)]
    assert len(missed) <= 3  # of 360, the cropped ones
    twins = {files.index(file) for file in files if file.stem in known[0]}
    assert {pair for pair in found if pair[0] != pair[1] and set(pair) != twins} == set()
