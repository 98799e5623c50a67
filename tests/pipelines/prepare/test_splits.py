import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.params import PrepareParams
from pipelines.prepare.splits import SplitError, divide, hold_out, shuffle

IDS = [f"photo-{n}" for n in range(1000)]
IDS_TEXT = st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=30)


def divided(sets: dict, ids: list[str] | None = None, seed: int = 0, **params: object) -> dict[str, list[str]]:
    return divide(
        sets, ids if ids is not None else sorted({i for s in sets.values() for i in s}), params_of(**params), seed
    )


def params_of(**values: object) -> PrepareParams:
    return PrepareParams(**values)


def ids(name: str, count: int = 50) -> list[str]:
    return [f"{name}{n}" for n in range(count)]


@given(IDS_TEXT, st.floats(0, 0.999), st.integers(0, 5))
def test_held_out_and_rest_are_the_whole(photos, share, seed):
    rest, held = hold_out(photos, share, seed, "val")
    assert sorted(rest + held) == sorted(photos)
    if share == 0:
        assert held == []
    elif len(photos) > 1:
        assert rest
        assert held


def test_share_is_about_what_was_asked():
    rest, held = hold_out(IDS, 0.2, 0, "val")
    assert 160 <= len(held) <= 240  # 200 expected, 12.6 the standard deviation
    assert len(rest) == 1000 - len(held)


def test_growing_data_leaves_photographs_where_they_were():
    before, after = divided({}, IDS[:500]), divided({}, IDS)
    for split, found in before.items():
        assert set(found) <= set(after[split])


def test_seed_changes_the_draw():
    assert divided({}, IDS, seed=1) != divided({}, IDS, seed=2)


def test_without_image_sets_shares_are_drawn():
    found = divided({}, IDS, val_share=0.1, test_share=0.2)
    assert 160 <= len(found["test"]) <= 240
    assert 50 <= len(found["val"]) <= 110  # a tenth of what is left
    assert sum(map(len, found.values())) == 1000


def test_no_shares_no_splits():
    assert set(divided({}, IDS, val_share=0.0, test_share=0.0)) == {"train"}


def test_bananas_test_on_their_val_and_hold_ours_out():
    found = divided({"train": ids("t"), "val": ids("v")})
    assert found["test"] == ids("v")
    assert set(found["train"]) | set(found["val"]) == set(ids("t"))
    assert found["val"]


def test_train_val_test_are_used_as_they_are():
    sets = {"train": ids("t"), "val": ids("v"), "trainval": ids("t") + ids("v"), "test": ids("x")}
    assert divided(sets) == {"train": ids("t"), "val": ids("v"), "test": ids("x")}


def test_trainval_and_test_hold_a_share_out():
    found = divided({"trainval": ids("t"), "test": ids("x")})
    assert found["test"] == ids("x")
    assert set(found["train"]) | set(found["val"]) == set(ids("t"))


def test_union_of_07_and_12():
    sets = {
        "VOC2007/train": ids("a"),
        "VOC2007/val": ids("b"),
        "VOC2007/trainval": ids("a") + ids("b"),
        "VOC2007/test": ids("c"),
        "VOC2012/train": ids("d"),
        "VOC2012/val": ids("e"),
        "VOC2012/trainval": ids("d") + ids("e"),
    }
    found = divided(sets)
    assert found["test"] == ids("c")
    assert set(found["train"]) | set(found["val"]) == {i for name in "abde" for i in ids(name)}


def test_voc2012_alone_tests_on_its_val():
    found = divided({"train": ids("t"), "val": ids("v"), "trainval": ids("t") + ids("v")})
    assert found["test"] == ids("v")
    assert not set(found["train"]) & set(ids("v"))


def test_only_train_draws_both():
    found = divided({"train": ids("t", 300)})
    assert set(found) == {"train", "val", "test"}
    assert sum(map(len, found.values())) == 300


def test_explicit_train_holds_val_out_of_it():
    sets = {"train": ids("t"), "val": ids("v"), "test": ids("x")}
    found = divided(sets, train=["train", "val"])
    assert set(found["train"]) | set(found["val"]) == set(ids("t")) | set(ids("v"))
    assert found["test"] == ids("x")
    assert "val" not in divided(sets, train=["train", "val"], val_share=0.0)


def test_explicit_test_is_not_trained_on():
    found = divided({"train": ids("t"), "val": ids("v"), "trainval": ids("t") + ids("v")}, test=["val"])
    assert not set(found["train"]) & set(ids("v"))


def test_overlap_names_the_sets_and_the_count():
    with pytest.raises(SplitError, match=r"prepare.train \['trainval'\] and prepare.val \['val'\] share 50"):
        divided({"trainval": ids("t") + ids("v"), "val": ids("v"), "test": ids("x")}, train=["trainval"], val=["val"])


def test_unknown_set_lists_those_there_are():
    with pytest.raises(SplitError, match=r"prepare\.test: no image set 'tset'; there are test, train"):
        divided({"train": ids("t"), "test": ids("x")}, test=["tset"])
    with pytest.raises(SplitError, match="none in this data"):
        divided({}, IDS, train=["train"])


def test_sets_of_other_names_must_be_chosen():
    with pytest.raises(SplitError, match="say which image sets to train on: fold1, fold2"):
        divided({"fold1": ids("a"), "fold2": ids("b")})
    assert divided({"fold1": ids("a"), "fold2": ids("b")}, train=["fold1"], test=["fold2"])["test"] == ids("b")


@given(IDS_TEXT, st.randoms())
def test_order_is_of_the_seed_not_of_the_listing(photos, random):
    other = list(photos)
    random.shuffle(other)
    assert shuffle(photos, 3) == shuffle(other, 3)
    assert sorted(shuffle(photos, 3)) == sorted(photos)


def test_shuffle_shuffles():
    assert shuffle(IDS, 0) != IDS
    assert shuffle(IDS, 0) != shuffle(IDS, 1)
