"""Search parameters on Ray Tune, hand the best over to train: `python -m pipelines.tune`, the DVC stage `tune`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines.cluster import jobs
from pipelines.command import command
from pipelines.params import PARAMS_FILE, load_draft
from pipelines.settings import set_defaults
from pipelines.store.shards import PREPARED
from pipelines.tune.stage import tune
from pipelines.tuned import TUNED


@command("tune", "the same command goes on from the last checkpoints")
def main() -> int | None:
    """Read the command line and tune."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.tune", description=__doc__)
    parser.add_argument("--prepared", type=Path, default=PREPARED, help="folder of the shards")
    parser.add_argument("--out", type=Path, default=TUNED.parent, help="folder of tuned.yaml, trials.csv, slices.png")
    parser.add_argument("--params", type=Path, default=PARAMS_FILE)
    parser.add_argument("--fresh", action="store_true", help="delete what the same search found before; search again")
    args = parser.parse_args()
    if jobs.requested() and load_draft(args.params).may_tune:
        inputs = {"--params": args.params, "--prepared": args.prepared}
        return jobs.run("tune", inputs, args.out, options=["--fresh"] * args.fresh)
    print(tune(args.params, args.prepared, args.out, args.fresh))
    jobs.upload_outputs(args.out)
    return None


if __name__ == "__main__":
    set_defaults({"PYTHONUNBUFFERED": "1"})
    main()
