"""Self-describing files: a model with its config and class names, or a whole training state. Never a pickle."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ssd.anchors import AnchorConfig
from ssd.model import SSD, ModelConfig
from ssd.tiles import TileConfig

FORMAT = 1  # of what `model_state` returns; a file that does not say one is of version 0.1 and read alike


class OtherFormat(ValueError):  # noqa: N818  named after what was found
    """A model that another version of this project wrote, in a format that this one cannot read."""


def save(state: dict[str, Any], path: Path | str) -> None:
    """Write tensors, numbers, strings and containers of them, whole or not at all.

    The bytes depend on `state` alone: equal states give equal files.

    Raises:
        OSError: naming the file; nothing of it is left behind.
    """
    buffer = io.BytesIO()  # the archive inside is named after the file otherwise
    torch.save(state, buffer)
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        error.filename = str(path)  # a full disk names none
        raise


def load(path: Path | str) -> dict[str, Any]:
    """Read the mapping that `save` or `torch.save` wrote, onto the CPU, refusing anything that would run code.

    Raises:
        FileNotFoundError, PermissionError; ValueError: the file is damaged, or holds anything else.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise ValueError(f"{path}: a folder or a pipe, not a checkpoint or a file of weights")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"{path}: not a checkpoint or a file of weights, or damaged: {reason}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path}: not a checkpoint or a file of weights: it holds a {type(state).__name__}")
    return state


def model_state(
    model: SSD,
    class_names: list[str],
    detect: dict[str, Any] | None = None,
    thresholds: Sequence[float] = (),
    calibration: Sequence[float] = (),
) -> dict[str, Any]:
    """What makes a model usable elsewhere: config, class names, settings of detection, weights (copies, on the CPU).

    `thresholds` are the network's scores from which on detections of the labels 1..C are worth showing, `calibration`
    scale and shift of `ssd.calibration`; none where none is known.
    """
    config = asdict(model.config)
    weights = {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}
    return {
        "format": FORMAT,
        "config": config,
        "class_names": list(class_names),
        "detect": detect or {},
        "thresholds": list(thresholds),
        "calibration": list(calibration),
        "weights": weights,
    }


def read_config(state: dict[str, Any]) -> ModelConfig:
    """The config of a model from what `model_state` returned or `load` read.

    Raises:
        OtherFormat: a newer version of this project wrote it.
        LookupError, TypeError, ValueError: it is no model, or has what this version does not know.
    """
    if (found := state.get("format", FORMAT)) != FORMAT:
        raise OtherFormat(
            f"a newer version of this project wrote it (format {found}, this one reads format {FORMAT}): use that "
            "version, or train anew"
        )
    config = state["config"] | {"anchors": AnchorConfig(**state["config"]["anchors"])}
    if isinstance(config.get("tile"), dict):
        config["tile"] = TileConfig(**config["tile"])
    return ModelConfig(**config)


def build_model(state: dict[str, Any]) -> SSD:
    """The model, in evaluation mode, from what `model_state` returned or `load` read."""
    model = SSD(read_config(state), len(state["class_names"]))
    model.load_state_dict(state["weights"])
    return model.eval()
