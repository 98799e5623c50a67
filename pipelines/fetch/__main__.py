"""Fetch a published data set into data/: download, verify, unpack, and hand it to DVC.

Folders and s3:// need none of this, DVC imports them itself: rm -rf data && dvc import-url SOURCE data
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.command import CommandParser, command, file_or_name


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(prog="ssd fetch", description=__doc__)
    parser.add_argument("layout", choices=("bananas", "voc"), help="layout of the data set")
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        type=file_or_name,
        help="zip or tar archives: paths or http(s) addresses, with #sha256=… to be verified; bananas: d2l's own is "
        "the default, and its SHA-1; voc: also 2007 to 2012 and 2007-test",
    )
    return parser


@command("fetch", "the data are as before; the same command goes on with what was downloaded")
def main(words: Sequence[str] | None = None) -> None:
    """Fetch what the command line names."""
    args = parser().parse_args(words)
    if args.layout == "voc" and not args.sources:
        parser().error("voc: which? For example: voc 2007 2007-test 2012")
    from pipelines.fetch.data_sets import (
        DATA,
        DOWNLOADS,
        fetch,
        resolve,
        track,
    )  # these take seconds, and --help needs none of them

    count = fetch(args.layout, resolve(args.layout, args.sources), DATA, DOWNLOADS)
    track(DATA)
    print(f"fetch: {count} photographs in {DATA}, tracked by {DATA}.dvc; go on with `dvc repro`")


if __name__ == "__main__":
    main()
