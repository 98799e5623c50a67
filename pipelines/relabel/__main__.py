"""Find labels that look wrong, hand them out, take them back: `ssd relabel suspects`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.command import CommandParser, command, file_or_name
from pipelines.relabel.kinds import KINDS
from pipelines.settings import PARAMS_FILE, PREPARED, TUNED

OUT = Path("artifacts/relabel")
MODEL = "artifacts/train/model.pt"
SHOWN = 60  # pictures, at most
EXAMPLES = """examples:
  ssd relabel suspects                  what the trained model contradicts, in all splits
  ssd relabel export to_check --top 50  the photographs of the first 50 with their labels, as VOC
  ssd relabel import to_check           the corrected labels into data/; says what changed

docs/label-errors.md has the whole way, with labelImg, CVAT and Label Studio."""


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="ssd relabel",
        description="Find labels that look wrong, hand them to a labelling tool, and take the corrections back.",
        epilog=EXAMPLES,
    )
    tasks = parser.add_subparsers(dest="task", required=True)
    suspects = tasks.add_parser("suspects", help="write suspects.csv and a page with pictures")
    suspects.add_argument(
        "model",
        nargs="?",
        default=MODEL,
        type=file_or_name,
        help="weights or models:/NAME/VERSION (default: %(default)s)",
    )
    suspects.add_argument("--splits", nargs="+", default=[], help="default: all")
    suspects.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=tuple(KINDS), help="default: all")
    suspects.add_argument("--shown", type=int, default=SHOWN, help="pictures on the page (default: %(default)s)")
    suspects.add_argument("--out", type=Path, default=OUT, help="folder to write (default: %(default)s)")
    export = tasks.add_parser("export", help="write photographs and labels of suspects as a small VOC or COCO set")
    export.add_argument("folder", type=Path, help="a new one")
    export.add_argument("--top", type=int, default=100, help="so many suspects, from the first (default: %(default)s)")
    export.add_argument("--format", choices=("voc", "coco"), default="voc", help="default: %(default)s")
    export.add_argument("--suspects", type=Path, default=OUT / "suspects.csv", help="default: %(default)s")
    take = tasks.add_parser("import", help="patch the annotations in the data with what was corrected")
    take.add_argument("folder", type=Path, help="that was exported and corrected, or what a tool made of it")
    take.add_argument("--exported", type=Path, help="what `export` wrote, if that is another folder")
    take.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
    for task in (suspects, export):
        task.add_argument("--prepared", type=Path, default=PREPARED, help="folder of the shards")
    for task in (export, take):
        task.add_argument("--data", type=Path, default=Path("data"), help="raw data (default: %(default)s)")
    for task in (suspects, export, take):
        task.add_argument("--params", type=Path, default=PARAMS_FILE)
    suspects.add_argument("--tuned", type=Path, default=TUNED, help="what tune hands over; may be missing")
    return parser


@command("relabel", "no file was left half written; the same command begins anew")
def main(words: Sequence[str] | None = None) -> None:
    """Read the command line and do one of the three."""
    args = parser().parse_args(words)
    from pipelines.params import load_stated  # these take seconds, and --help needs none of them
    from pipelines.tuned import read_tuned

    if args.task == "suspects":
        from pipelines.relabel.search import search

        tuned = read_tuned(args.tuned).overrides
        detect = {name: value for name, value in tuned.items() if name.startswith("detect.")}
        params = load_stated(args.params, detect)
        print(search(args.model, args.prepared, args.splits, args.kinds, params, args.out, args.shown))
    elif args.task == "export":
        from pipelines.relabel.export import export

        params = load_stated(args.params)
        print(export(args.folder, args.suspects, args.top, args.format, args.data, args.prepared, params.prepare))
    else:
        from pipelines.relabel.take_back import take_back

        params = load_stated(args.params)
        print(take_back(args.folder, args.exported or args.folder, args.data, params.prepare, args.dry_run))


if __name__ == "__main__":
    main()
