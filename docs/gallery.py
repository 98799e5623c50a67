"""Take the pictures of docs/gallery.md from what a real run left: `python docs/gallery.py`, after `dvc repro`.

Run it in the project's folder. Chromium has to be installed. The pictures are made of the default data alone, which
the project draws by itself, so that they may be shown anywhere.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs/gallery"
COLOURS = 128  # enough for pages; a picture takes a third of the bytes
PAGES = {  # picture → page of the run, width and height of the window
    "report": ("artifacts/evaluate/report.html", 1200, 1500),
    "report-on-a-phone": ("artifacts/evaluate/report.html", 500, 1000),
    "data": ("artifacts/prepare/report.html", 1200, 1500),
}
MLFLOW = {"runs": (1800, 700), "version": (1800, 900)}


def photograph(address: str, name: str, width: int, height: int, dark: bool = False) -> Path:
    """Draw a page in a headless browser, and write it as a small picture."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        words = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        words += [f"--user-data-dir={folder}/profile", f"--window-size={width},{height}", f"--screenshot={shot}"]
        words += [
            "--virtual-time-budget=40000",
            *(["--blink-settings=preferredColorScheme=0"] if dark else []),
            address,
        ]
        subprocess.run(words, check=True, capture_output=True, timeout=300)
        picture = Image.open(shot).convert("RGB")
    file = OUT / f"{name}.png"
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    return file


@contextmanager
def mlflow_pages() -> Iterator[str]:
    """Address of the page of runs, as `ssd ui` opens it, while the server runs."""
    words = [sys.executable, "-m", "pipelines.ui"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            found = re.search(r"http\S+", server.stdout.readline())
            if not found:
                sys.exit("gallery: MLflow has nothing to show; run `dvc repro` first")
            yield found[0]
        finally:
            server.terminate()


def main() -> None:
    """Take all pictures."""
    missing = [page for page, *_ in PAGES.values() if not Path(page).is_file()]
    if missing:
        sys.exit(f"gallery: {missing[0]}: no such file; run `dvc repro` first")
    OUT.mkdir(exist_ok=True)
    made = [photograph(Path(page).resolve().as_uri(), name, *size) for name, (page, *size) in PAGES.items()]
    made.append(photograph(Path(PAGES["report"][0]).resolve().as_uri(), "report-in-the-dark", 1200, 900, dark=True))
    with mlflow_pages() as address:
        made.append(photograph(address, "runs", *MLFLOW["runs"]))
        version = f"{address.partition('#')[0]}#/models/ssd/versions/1"
        made.append(photograph(version, "version", *MLFLOW["version"]))
    size = sum(file.stat().st_size for file in made)
    print(f"{OUT}: {len(made)} pictures, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
