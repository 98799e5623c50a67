"""All seeds of a configuration: trained, measured, and what comes of them."""

from __future__ import annotations

from pathlib import Path

from pipelines.seeds.repeat import Configuration, repeat, to_metrics
from pipelines.seeds.summary import compare, summarise, table, write
from pipelines.tracking import provenance, runs
from pipelines.train.stage import closing_run


def measure(configuration: Configuration, baseline: Path) -> None:
    """Train and measure all seeds, and print and write what comes of it."""
    manifest, params = configuration.manifest, configuration.params
    shown = provenance.flatten(params.model_dump(mode="json", include={"model", "loss", "detect", "augment", "train"}))
    spec = runs.RunSpec(configuration.name, f"seeds of {params.model.backbone}", shown, provenance.tags())
    client = runs.connect()
    parent = runs.open_run(client, spec)
    results = []
    with closing_run(spec):
        for seed in configuration.plans:
            print(f"seed {seed} ({len(results) + 1} of {len(configuration.plans)})", flush=True)
            results.append(repeat(configuration, seed, parent))
        spreads = summarise(results)
        files = write(configuration.folder, configuration.name, results, spreads)
        for part in ("mean", "sd"):
            numbers = {split: {name: getattr(s, part) for name, s in of.items()} for split, of in spreads.items()}
            client.log_batch(parent, metrics=to_metrics({part: numbers}))
        for file in files:
            client.log_artifact(parent, str(file))
        client.log_batch(parent, metrics=to_metrics({"seeds": len(results)}))
        runs.close_run(client, parent, "FINISHED")
    named = ", ".join(str(seed) for seed in configuration.plans)
    print(f"\nmean ± standard deviation over {len(results)} seeds ({named})\n{table(spreads, manifest)}\n")
    print(compare(baseline, results, spreads, manifest, params.model.task))
    said = [f"{split} mAP {of['map']}, " for split, of in spreads.items() if "map" in of]
    print(f"{files[0]}: {''.join(said)}{len(results)} seeds")
