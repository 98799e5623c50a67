"""Generate the default data set: `ssd generate`, the DVC stage `generate`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from pipelines.command import CommandParser, command
from pipelines.settings import PARAMS_FILE


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(prog="ssd generate", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("artifacts/bananas"), help="default: %(default)s")
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="default: %(default)s")
    return parser


@command("generate", "nothing was replaced; the same command begins anew")
def main(words: Sequence[str] | None = None) -> None:
    """Generate as params.yaml says."""
    args = parser().parse_args(words)
    from pipelines.generate.stage import generate  # these take seconds, and --help needs none of them
    from pipelines.params import load_stated

    params = load_stated(args.params)
    start = time.monotonic()
    generate(args.out, params.generate)
    size, seconds = params.generate.image_size, time.monotonic() - start
    print(
        f"generate: {params.generate.train} + {params.generate.val} images of {size} × {size} pixels "
        f"in {args.out} ({seconds:.0f} s)"
    )


if __name__ == "__main__":
    main()
