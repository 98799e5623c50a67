"""What is suspicious about prepared data, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipelines.prepare.quarantine import Entry, count_rejected
from pipelines.prepare.report.duplicates import Match, leaks
from pipelines.prepare.report.finding import Finding, count, with_examples
from pipelines.prepare.report.oddities import odd_boxes, odd_photographs
from pipelines.prepare.report.statistics import Truth
from pipelines.store.shards import Manifest

FEW_BOXES = 10  # of a class
MARGIN = 0.05  # of a recall measured on a split, at 95 % confidence


def find_suspicious(
    manifest: Manifest, truths: dict[str, Truth], matches: Sequence[Match], turned: int, entries: Sequence[Entry]
) -> list[Finding]:
    """All that is suspicious, the worst first.

    Args:
        manifest: of the prepared data.
        truths: ground truth by split.
        matches: near-duplicates. turned: photographs with an EXIF orientation. entries: of quarantine.csv.
    """
    findings = [
        *_duplicates(matches, truths),
        *_quarantined(entries, manifest),
        *_classes(manifest),
        *_splits(manifest),
        *odd_boxes(truths, manifest.classes),
        *odd_photographs(truths, turned),
    ]
    return sorted(findings, key=lambda finding: ("bad", "warn", "note").index(finding.level))


def leak_lines(matches: Sequence[Match], images: dict[str, int]) -> list[str]:
    """A line for each pair of splits that share photographs, with the share."""
    return [
        f"{number} of {images[split]} photographs of {split} ({number / images[split]:.1%}) have a near-duplicate "
        f"in {source}"
        for split, sources in leaks(matches).items()
        for source, number in sources.items()
    ]


def _duplicates(matches: Sequence[Match], truths: dict[str, Truth]) -> Iterator[Finding]:
    across = [f"{m.other_image} ({m.other_split}) = {m.image} ({m.split})" for m in matches if m.split != m.other_split]
    if across:
        yield with_examples(
            "bad",
            "Leakage: " + "; ".join(leak_lines(matches, {split: len(truth.ids) for split, truth in truths.items()})),
            "What is measured on them is too good. Look at the pairs below; keep copies of one photograph, and frames "
            "of one video, in one split (`prepare.group_by`), or remove the copies. All pairs are in duplicates.csv.",
            across,
        )
    within = {(m.other_split, m.other_image): m.image for m in matches if m.split == m.other_split}
    if within:
        examples = [f"{image} = {first} ({split})" for (split, image), first in within.items()]
        yield with_examples(
            "warn",
            f"{count(len(within), 'photograph')} repeat another of the same split",
            "Copies count twice: in training harmless if few, in val and test they weigh the result. Remove what was "
            "not meant, such as copies that an export of augmented images wrote.",
            examples,
        )


def _quarantined(entries: Sequence[Entry], manifest: Manifest) -> Iterator[Finding]:
    rejected, boxes = count_rejected(entries), [entry for entry in entries if entry.box]
    if rejected:
        yield Finding(
            "warn",
            f"{count(rejected, 'record')} in quarantine",
            "They neither teach nor count. The reasons are below and in quarantine.csv: mend what is worth it.",
        )
    if boxes:
        yield Finding(
            "warn",
            f"{count(len(boxes), 'bad box')} in photographs that are used",
            "Listed below and in quarantine.csv with what became of each; prepare.bad_boxes decides.",
        )


def _classes(manifest: Manifest) -> Iterator[Finding]:
    totals = {split: part.boxes_per_class for split, part in manifest.splits.items()}
    everywhere = {name: sum(counts[name] for counts in totals.values()) for name in manifest.classes}
    nowhere = [name for name, number in everywhere.items() if not number]
    if nowhere:
        yield with_examples(
            "warn",
            f"{count(len(nowhere), 'class')} of prepare.classes without any box",
            "Check the spelling, or take them from the list.",
            nowhere,
        )
    for split, counts in totals.items():
        missing = [name for name, number in everywhere.items() if number and not counts[name]]
        if missing:
            verb = "cannot be learned" if split == "train" else "are not measured"
            yield with_examples(
                "bad" if split == "train" else "warn",
                f"{count(len(missing), 'class')} without a box in {split}: they {verb}",
                "Label more of them, or draw the splits anew (another `seed`, or larger prepare.val_share and "
                "prepare.test_share).",
                missing,
            )
    for split, counts in totals.items():
        few = [f"{name}: {counts[name]}" for name in manifest.classes if 0 < counts[name] < FEW_BOXES]
        if few:
            yield with_examples(
                "note" if split == "val" else "warn",
                f"{count(len(few), 'class')} with fewer than {FEW_BOXES} boxes in {split}",
                "So few do not teach a class. Label more, merge it with a kindred class, or leave it out."
                if split == "train"
                else "Its average precision is left to chance, and the mean counts it like any other class.",
                few,
            )
    alike: dict[str, list[str]] = {}
    for name in manifest.classes:
        alike.setdefault("".join(filter(str.isalnum, name.casefold())) or name, []).append(name)
    twins = [" and ".join(f"“{name}”" for name in names) for names in alike.values() if len(names) > 1]
    if twins:
        yield with_examples(
            "warn",
            "Class names that differ in case, spaces or punctuation only",
            "If they mean the same, give them one name in the annotations.",
            twins,
        )


def _splits(manifest: Manifest) -> Iterator[Finding]:
    for split, use in (("val", "to choose the best epoch and to search on"), ("test", "to measure on")):
        if split not in manifest.splits or not manifest.splits[split].images:
            yield Finding("warn", f"No {split} split: nothing {use}", f"Set prepare.{split} or prepare.{split}_share.")
            continue
        boxes = manifest.splits[split].boxes - manifest.splits[split].difficult
        margin = margin_of(boxes)
        if margin > MARGIN:
            yield Finding(
                "warn" if margin > 2 * MARGIN else "note",
                f"{split} has {count(boxes, 'box')} that count: its recall is known to ± {100 * margin:.0f} points",
                "At 95 % confidence, and at best: boxes of one photograph are alike. Smaller differences between "
                f"models mean nothing. About {round(0.96 / MARGIN**2):,} boxes, of a class likewise, give ± "
                f"{100 * MARGIN:.0f}.",
            )


def margin_of(boxes: int) -> float:
    """Half of the 95 % interval of a share that is measured on so many boxes and is a half; 1 without boxes."""
    return 1.96 * (0.25 / boxes) ** 0.5 if boxes else 1.0
