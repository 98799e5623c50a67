import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.layouts.listing import Photo
from pipelines.params import ParamsError, PrepareParams, load_params
from pipelines.prepare.groups import describe, group
from pipelines.prepare.splits import SplitError, divide, hold_out
from pipelines.prepare.stage import prepare
from tests.conftest import write_params
from tests.pipelines.layouts.trees import good, lenient, write_voc


def together(photos: list[Photo], group_by: str) -> list[set[str]]:
    """Ids of the groups, in the order of their first photograph."""
    found: dict[str, set[str]] = {}
    for image_id, key in group(photos, group_by).items():
        found.setdefault(key, set()).add(image_id)
    return list(found.values())


def photos_of(*paths: str) -> list[Photo]:
    return [Photo(path.rpartition(".")[0], path) for path in paths]


FRAMES = photos_of("a/vid1_001.jpg", "a/vid1_002.jpg", "b/vid1_003.jpg", "b/vid12_001.jpg", "b/other.jpg", "vid1.jpg")


@pytest.mark.parametrize(
    ("group_by", "wanted"),
    [
        ("none", ["a/vid1_001", "a/vid1_002", "b/vid1_003", "b/vid12_001", "b/other", "vid1"]),
        ("folder", ["a/vid1_001 a/vid1_002", "b/vid1_003 b/vid12_001 b/other", "vid1"]),
        (r"vid\d+", ["a/vid1_001 a/vid1_002 b/vid1_003 vid1", "b/vid12_001", "b/other"]),  # the whole match
        (r"(vid\d+)_", ["a/vid1_001 a/vid1_002 b/vid1_003", "b/vid12_001", "b/other", "vid1"]),
        (r"^a/(vid)\d_(\d+)", ["a/vid1_001 a/vid1_002", "b/vid1_003", "b/vid12_001", "b/other", "vid1"]),  # the first
        (r"_(?P<frame>\d+)$", ["a/vid1_001 b/vid12_001", "a/vid1_002", "b/vid1_003", "b/other", "vid1"]),
        (r"(?i)(VID)", ["a/vid1_001 a/vid1_002 b/vid1_003 b/vid12_001 vid1", "b/other"]),
        (
            r"(?:a|b)/(x?)",
            ["a/vid1_001", "a/vid1_002", "b/vid1_003", "b/vid12_001", "b/other", "vid1"],
        ),  # finds nothing
        (r"a|b", ["a/vid1_001 a/vid1_002", "b/vid1_003 b/vid12_001 b/other", "vid1"]),
    ],
)
def test_what_belongs_together(group_by, wanted):
    assert together(FRAMES, group_by) == [set(ids.split()) for ids in wanted]


def test_names_of_any_script_and_length_and_photographs_without_a_file():
    photos = [Photo("図/é 1_a", "図/é 1_a.jpg"), Photo("図/é 1_b", "図/é 1_b.jpg"), Photo("lost", "")]
    assert together(photos, r"^(.*)_") == [{"図/é 1_a", "図/é 1_b"}, {"lost"}]
    assert together(photos, "folder") == [{"図/é 1_a", "図/é 1_b"}, {"lost"}]
    assert together([], "x") == []


def test_augmented_copies_that_roboflow_wrote_stay_together():
    photos = photos_of(*(f"train/{name}.rf.{n:032x}.jpg" for n, name in enumerate(("a_jpg", "b_jpg", "a_jpg"))))
    first, other, copy = (photo.image_id for photo in photos)
    assert together(photos, r"([^/]+)\.rf\.") == [{first, copy}, {other}]  # as docs/own-data.md has it


def test_a_group_is_not_the_photograph_of_its_name():
    assert together(photos_of("v.jpg", "v_1.jpg", "v_2.jpg"), "(.*)_") == [{"v"}, {"v_1", "v_2"}]


def test_an_expression_that_others_never_end_on():
    """(a+)+$ on aaa…! takes Python's `re` 2^n steps."""
    photos = photos_of(*(f"{'a' * 30_000}!{n}.jpg" for n in range(3)))
    assert len(together(photos, "^(a+)+$")) == 3


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("(a", r"prepare\.group_by: Invalid regular expression: missing \)"),
        ("a|b)|(c", r"prepare\.group_by: Invalid regular expression"),
        ("(?=a)b", r"prepare\.group_by: .*invalid perl operator: \(\?="),
        ("(a{1000}){1000}", r"prepare\.group_by: .*invalid repetition size"),
        ("*", r"prepare\.group_by: .*no argument for repetition operator"),
        ("", r"prepare\.group_by: write none, folder or a regular expression"),
        (7, r"prepare\.group_by: .*valid string"),
    ],
)
def test_what_is_no_expression_is_an_error_of_the_parameters(tmp_path, pattern, problem):
    with pytest.raises(ParamsError, match=problem):
        load_params(write_params(tmp_path / "params.yaml", {"prepare.group_by": pattern}))


VIDEOS = {f"v{video}_{frame}": f"v{video}" for video in range(100) for frame in range(video % 7 + 1)}


@given(st.lists(st.sampled_from("abcdef"), max_size=30), st.floats(0, 0.99), st.integers(0, 5))
def test_whole_groups_are_held_out(keys, share, seed):
    groups = {f"{key}{n}": key for n, key in enumerate(keys)}
    if share > 0 and len(set(keys)) == 1 < len(keys):
        with pytest.raises(SplitError, match=rf"prepare.group_by: all {len(keys)} photographs are one group"):
            hold_out(list(groups), share, seed, "val", groups)
        return
    rest, held = hold_out(list(groups), share, seed, "val", groups)
    assert sorted(rest + held) == sorted(groups)
    assert not {groups[i] for i in rest} & {groups[i] for i in held}
    if share > 0 and len(set(keys)) > 1:
        assert rest
        assert held


def test_shares_are_about_what_was_asked_and_growing_data_moves_nothing():
    params = PrepareParams(val_share=0.2, test_share=0.2)
    splits = divide({}, list(VIDEOS), params, 0, VIDEOS)
    for split, share in (("test", 0.2), ("val", 0.16)):
        # of 100 groups of 1 … 7, in photographs: the standard deviation is about 0.045
        assert abs(len(splits[split]) / len(VIDEOS) - share) < 0.12
    half = {image_id: key for image_id, key in VIDEOS.items() if int(key[1:]) % 2}
    before = divide({}, list(half), params, 0, half)
    for split, ids in before.items():
        assert set(ids) <= set(splits[split])
    more = VIDEOS | {f"{key}_new": key for key in VIDEOS.values()}
    after = divide({}, list(more), params, 0, more)
    for split, ids in splits.items():
        assert {VIDEOS[i] for i in ids} == {more[i] for i in after[split]}


def test_one_photograph_a_group_is_drawn_as_without_groups():
    ids = list(VIDEOS)
    assert divide({}, ids, PrepareParams(), 3, dict(zip(ids, ids))) == divide({}, ids, PrepareParams(), 3)


def test_what_is_said_of_groups():
    groups = group(photos_of("v1_1.jpg", "v1_2.jpg", "v2_1.jpg", "v2_2.jpg", "odd.jpg"), "^v[0-9]")
    apart = {"train": ["v1_1", "v1_2", "odd"], "test": ["v2_1", "v2_2"]}
    assert describe(apart, groups, "^v[0-9]") == [
        "prepare.group_by ^v[0-9]: 2 groups, 1 photographs without one are groups of their own; train 60.0%, test 40.0%"
    ]
    _, warning = describe({"train": ["v1_1", "v2_1", "odd"], "test": ["v2_2", "v1_2"]}, groups, "^v[0-9]")
    assert warning.startswith("WARNING: 2 groups lie in several splits")
    assert "v1_1 in train and v1_2 in test" in warning


def test_from_folder_to_split(tmp_path, capsys):
    photos = good(8, "x_") | good(8, "y_") | good(8, "z_")
    write_voc(tmp_path / "data", photos)
    manifest, _ = prepare(tmp_path / "data", tmp_path / "out", lenient(group_by="^(.)_", test_share=0.3), 0)
    assert {split.images for split in manifest.splits.values()} <= {8, 16}
    assert "prepare.group_by ^(.)_: 3 groups; train" in capsys.readouterr().out
    with pytest.raises(SplitError, match="all 24 photographs are one group, like 'x_000'; of one, no test split"):
        prepare(tmp_path / "data", tmp_path / "out", lenient(group_by="folder"), 0)
    sets = {"train": sorted(photos)[:9], "test": sorted(photos)[9:]}
    write_voc(tmp_path / "data", {}, sets)
    prepare(tmp_path / "data", tmp_path / "out", lenient(group_by="^(.)_", val_share=0.0), 0)
    assert "WARNING: 1 groups lie in several splits" in capsys.readouterr().out
    prepare(tmp_path / "data", tmp_path / "out", lenient(val_share=0.0), 0)
    assert "group" not in capsys.readouterr().out
