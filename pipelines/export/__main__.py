"""Write a registered model for other runtimes: `ssd export --to onnx`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.arguments import registered_name
from pipelines.command import CommandParser, command, file_or_name
from pipelines.settings import PREPARED

if TYPE_CHECKING:
    from pipelines.export.model import Source

FILES = {
    "onnx": "artifacts/export/model.onnx",
    "onnx_int8": "artifacts/export/model.int8.onnx",
    "torchscript": "artifacts/export/model.torchscript.pt",
}
USED = "docs/using-the-model.md shows how it is used"
EXAMPLES = """examples:
  ssd export --to onnx
  ssd export models:/ssd/3 --to onnx --out ssd.onnx
  ssd export artifacts/train/model.pt --to torchscript
  ssd export --to onnx_int8                 integers of 8 bits: `ssd compare` tells what they cost

The file takes photographs of any size as uint8 [batch, height, width, 3] and gives boxes in their pixels: resize,
network and NMS are inside. docs/using-the-model.md has the table of inputs and outputs."""


def export(source: Source, kind: str, card_file: Path, out: Path, prepared: Path) -> str:
    """Write the file and say what it is; errors as of `pipelines.export.write.write`."""
    from pipelines.export.model import read_card
    from pipelines.export.write import check, write
    from pipelines.tracking.registry import sha256

    check(source, kind)
    card, doubt = read_card(card_file, source.sha256)
    if doubt:
        print(f"  {doubt}")
    write(source, kind, card, out, prepared)
    return f"{out}: {source.called} as {kind}, {out.stat().st_size / 1e6:.1f} MB, SHA-256 {sha256(out)[:12]}; {USED}"


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="ssd export",
        description="Write a model for runtimes that do without this project.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "model",
        nargs="?",
        type=file_or_name,
        help="models:/NAME@ALIAS, models:/NAME/VERSION, a version's number or a weights file",
    )
    parser.add_argument("--to", required=True, choices=FILES, help="the file's format")
    parser.add_argument("--out", type=Path, help="default: artifacts/export/model.*")
    parser.add_argument(
        "--card",
        type=Path,
        default=Path("artifacts/evaluate/card.json"),
        help="how the model was measured, for the metadata; default: artifacts/evaluate/card.json, if it is of it",
    )
    parser.add_argument(
        "--prepared",
        type=Path,
        default=PREPARED,
        help="folder of the shards, from whose training photographs onnx_int8 takes the ranges of numbers",
    )
    return parser


@command("export", "no file was written; the same command begins anew")
def main(words: Sequence[str] | None = None) -> None:
    """Read the command line and export."""
    args = parser().parse_args(words)
    from pipelines.export.model import find_source  # this takes seconds, and --help does not need it

    source = find_source(args.model, registered_name(args.model))
    out = args.out or Path(FILES[args.to])
    print(export(source, args.to, args.card, out, args.prepared))


if __name__ == "__main__":
    main()
