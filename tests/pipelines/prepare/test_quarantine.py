import csv

from pipelines.layouts.listing import Rejected
from pipelines.prepare.quarantine import Entry, count_rejected, describe, rejection, warn_of_boxes, write_report

BOXES = [
    Entry("b.xml", "b.jpg", 10, "ignored", "is empty: [1, 2, 1, 4]"),
    Entry("b.xml", "b.jpg", 9, "clipped", "lies outside"),
    Entry("a.xml", "a.jpg", 2, "ignored", "is reversed"),
]


def test_the_report_has_a_line_for_each_box_and_an_empty_box_for_a_photograph(tmp_path):
    write_report(tmp_path, [*BOXES, rejection(Rejected("b.xml", "not VOC"), "b.jpg")])
    with open(tmp_path / "quarantine.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["file", "image", "box", "action", "reason"],
        ["a.xml", "a.jpg", "2", "ignored", "is reversed"],
        ["b.xml", "b.jpg", "", "rejected", "not VOC"],
        ["b.xml", "b.jpg", "9", "clipped", "lies outside"],
        ["b.xml", "b.jpg", "10", "ignored", "is empty: [1, 2, 1, 4]"],
    ]
    write_report(tmp_path, [])
    assert (tmp_path / "quarantine.csv").read_text() == "file,image,box,action,reason\n"


def test_the_summary_tells_records_from_boxes(tmp_path):
    entries = [*BOXES, *(rejection(Rejected(f"r{n}", "broken")) for n in range(7))]
    assert count_rejected(entries) == 7
    lines = describe(entries, tmp_path / "q.csv").splitlines()
    assert lines[:2] == ["quarantined 7:", "  r0: broken"]
    assert lines[6:] == [
        f"  … and 2 more in {tmp_path / 'q.csv'}",
        "bad boxes, 1 clipped, 2 ignored:",
        "  a.xml: box 2 is reversed",
        "  b.xml: box 9 lies outside",
        "  b.xml: box 10 is empty: [1, 2, 1, 4]",
    ]
    assert describe([], tmp_path) == ""
    assert "quarantined" not in describe(BOXES, tmp_path)


def test_many_ignored_boxes_are_worth_a_warning():
    entries = [*BOXES, Entry("c.xml", "c.jpg", 1, "dropped", "is not finite")]
    # two ignored and one dropped of 99 kept and that one: 3 %
    assert warn_of_boxes(entries, 99, 0.03) == ""
    assert warn_of_boxes(entries, 99, 0.02).startswith("WARNING: 3 of 100 boxes (3.0%) neither teach nor count")
    assert warn_of_boxes([], 0, 0.0) == ""
