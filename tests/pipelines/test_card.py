"""Cards: what two measurements have in common."""

from pipelines.card import Card, describe_differences, differences


def card_of(**model):
    """A card of a measurement that never was; keywords are fields of its model."""
    test = {"images": 3, "boxes": 2, "difficult": 0, "crowds": 0, "images_without_boxes": 1, "digest": "d" * 64}
    protocol = {
        "numbers": {"map": "COCO"},
        "difficult": "as crowd",
        "crowds": "neither way",
        "coco_max_detections": 100,
        "intervals": "95%",
        "detect": {"score_threshold": 0.01, "nms_iou": 0.45},
        "task": "detection",
        "classes": ["a", "b"],
        "test": test,
    }
    facts = {"name": "ssd", "weights": "0" * 64, "training": "train-1", "data": "e" * 64, "backbone": "tiny"}
    facts |= {"image_size": (64, 96), "tile": "none", "score_thresholds": [0.5, 0.5], "calibration": (1.0, 0.0)}
    made = {"code": "c" * 64, "data": "e" * 64, "libraries": {"torch": "2"}, "device": "cpu", "precision": "fp32"}
    return Card.model_validate({"protocol": protocol, "model": facts | model, "made": made})


def changed(card, section, **fields):
    part = getattr(card, section)
    return card.model_copy(update={section: part.model_copy(update=fields)})


def test_other_models_are_no_difference():
    assert differences(card_of(), card_of(weights="1" * 64, score_thresholds=[0.3, 0.5])) == {}
    assert describe_differences(card_of(), card_of(weights="1" * 64)) == ""


def test_differences_are_named_with_both_values():
    one = card_of()
    other = changed(one, "protocol", detect={"score_threshold": 0.01, "nms_iou": 0.5}, classes=["a"])
    other = changed(other, "made", code="f" * 64, libraries={})
    assert differences(one, other) == {
        "protocol.detect.nms_iou": (0.45, 0.5),
        "protocol.classes": (["a", "b"], ["a"]),
        "made.code": ("c" * 64, "f" * 64),
        "made.libraries.torch": ("2", None),
    }
    assert describe_differences(one, other) == (
        "protocol.detect.nms_iou: 0.45 against 0.5; protocol.classes: a, b against a; "
        "made.code: cccccccccccc against ffffffffffff; made.libraries.torch: 2 against nothing"
    )


def test_a_file_and_its_card_are_the_same():
    card = card_of(tile={"size": [64, 64], "overlap": 0.5})
    assert Card.model_validate_json(card.to_json()) == card
    assert card.to_json() == card_of(tile={"size": [64, 64], "overlap": 0.5}).to_json()


def test_tags_are_flat_and_short_enough_for_mlflow():
    card = changed(card_of(), "protocol", classes=[f"class {number}" for number in range(1000)])
    tags = card.tags()
    assert tags["card.protocol.detect.nms_iou"] == "0.45"
    assert tags["card.protocol.classes"].startswith("class 0, class 1, ")
    assert max(map(len, tags.values())) == 5000
    assert all(isinstance(value, str) for value in tags.values())
