"""The file README.txt in the folder of runs: what else is in it, what may be deleted, and what that costs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pipelines import __version__
from pipelines.files import write_whole

NAME = "README.txt"
TEXT = f"""What ssd {__version__} keeps here, in the folder of runs (SSD_HOME, by default runs/ in the project).

train-ID/        One training. ID is made of its parameters, data, code and initial weights: the same inputs find this
                 folder again and go on from its newest checkpoint, any other inputs get a folder of their own.
  step-N.pt      Checkpoint after N steps: weights, optimizer, schedule, moving average, history, model so far.
                 The two newest are kept. After the end `ssd train` still reads the newest one.
  times.csv      How long each part of each epoch took; times.png shows it.
  *.lock         Empty. They keep two processes from working on one training.
tune-ID/         One search, named likewise.
  trial-NNN/     One trial: trial.json is what it did, step-N.pt its checkpoints while it is unfinished.
cache/           Decoded photographs, and predictions of versions that were compared.
prepared/        Shards that were fetched from STORAGE_URI.
weights/         Initial weights that were fetched, and notes which run began with which.
ray/             Ray's notes on its trainings.
comparisons/     Pages that compare two versions.
seeds/, verify/  What `ssd seeds` and `ssd verify --retrain` wrote.
mlflow.db        MLflow's runs and registered models, unless MLFLOW_TRACKING_URI names a server.
mlartifacts/     Their files: weights, pictures, reports.

What may be deleted while nothing runs, and what it costs:

cache/, ray/     Nothing but time: they are made again.
prepared/        Likewise, as long as they are in STORAGE_URI.
weights/         They are fetched again. A run that began with a model of the registry may begin with a newer one.
train-ID/        Its training: the same inputs train anew, unless STORAGE_URI brings the checkpoint back. A registered
                 model stays. Trainings that were made by other parameters, data or code (also by an older version of
                 this project) are never continued, so their folders only take up room.
tune-ID/         Its search, likewise. artifacts/tune/ keeps what was found.
comparisons/, seeds/, verify/    What is in them.
mlflow.db, mlartifacts/          Go together, and with them every run and every registered model, for good. They are
                                 the only part that is worth a backup.

`make clean` removes all of this folder, and says before how large it is.
"""


def write_readme(home: Path) -> None:
    """Write README.txt into the folder of runs, unless it is there as this version has it.

    A disk that takes no file stops nothing here: what matters is written next, and says so.
    """
    file = home / NAME
    with suppress(OSError):
        if not file.exists() or file.read_text(encoding="utf-8") != TEXT:
            write_whole(file, TEXT)
