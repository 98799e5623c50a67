"""Fetch a published data set into data/: download, verify, unpack, and hand it to DVC.

Folders and s3:// need none of this, DVC imports them itself: rm -rf data && dvc import-url SOURCE data
"""

from __future__ import annotations

import argparse

from torchvision.datasets.voc import DATASET_YEAR_DICT

from pipelines.command import command
from pipelines.fetch.data_sets import DATA, DOWNLOADS, fetch, resolve, track


@command("fetch", "the data are as before; the same command goes on with what was downloaded")
def main() -> None:
    """Fetch what the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.fetch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("layout", choices=("bananas", "voc"), help="layout of the data set")
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="zip or tar archives: paths or http(s) addresses, with #sha256=… to be verified; bananas: d2l's own is "
        f"the default, and its SHA-1; voc: also {', '.join(sorted(DATASET_YEAR_DICT))}",
    )
    args = parser.parse_args()
    if args.layout == "voc" and not args.sources:
        parser.error("voc: which? For example: voc 2007 2007-test 2012")
    count = fetch(args.layout, resolve(args.layout, args.sources), DATA, DOWNLOADS)
    track(DATA)
    print(f"fetch: {count} photographs in {DATA}, tracked by {DATA}.dvc; go on with `dvc repro`")


if __name__ == "__main__":
    main()
