"""Bad requests to a model behind HTTP: `python -m tests.fuzz_serving URL --requests 10000 --pid PID`.

URL is that of `mlflow models serve` (http://…/invocations) or of `serve run pipelines.serving:app` (http://…/detect).
Each request is one of BAD with a seed of its own. Requests tempt the server with a file that says CANARY, a pipe at
which whoever opens it hangs, and an address at which this process listens. Wanted: an answer that is a refusal, or a
detection where damage left a photograph a photograph; no answer that tells the file's content; no process that ended or
grew; and at the end the same answer to a good request as at the beginning.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import io
import json
import os
import random
import socket
import struct
import sys
import tempfile
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
import psutil
from PIL import Image

CANARY = "canary-that-must-not-sing"
KINDS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "EPS", "ICO", "TGA", "PCX", "SGI")
FINE = {200, 400, 413, 415}
# MLflow's own server, before the model is asked: json.loads refuses these with errors that it does not catch.
KNOWN = {("mlflow", "deep"), ("mlflow", "digits")}


class Sent(NamedTuple):
    """A request: which of BAD made it, its body, content type and query."""

    name: str
    body: bytes
    kind: str = "application/json"
    query: str = ""


class Temptation(NamedTuple):
    """What a server that opened paths or addresses would open."""

    file: str
    pipe: str
    address: str
    visits: list[str]


@dataclass
class Report:
    """What came back."""

    statuses: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = ", ".join(f"{count}× {status}" for status, count in sorted(self.statuses.items(), key=str))
        return f"{counts}; {len(self.wrong)} wrong {self.wrong[:5]}"


def photograph(kind: str = "PNG", seed: int = 0, size: tuple[int, int] = (40, 60)) -> bytes:
    """A small encoded picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image = image.resize((32, 32)) if kind == "ICO" else image
    image.save(buffer := io.BytesIO(), kind)
    return buffer.getvalue()


def png(rng: random.Random) -> bytes:
    """A PNG with an honest checksum and a header that may say anything."""
    width, height = (rng.choice([0, 1, 7, 5000, 70_000, 2**31 - 1]) for _ in range(2))
    header = struct.pack(">IIBB", width, height, rng.choice([1, 8, 16, 99]), rng.choice([0, 2, 3, 6, 9]))
    header += bytes([0, 0, rng.choice([0, 1])])
    data = zlib.compress(bytes(rng.choice([0, 10, 10_000_000])))
    parts = [(b"IHDR", header), (b"zTXt", b"a\0\0" + data), (b"IDAT", data), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def damage(content: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut off, doubled or moved."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8, 40])):
        at = rng.randrange(len(changed) + 1)
        how = rng.randrange(4)
        if how == 0 and at < len(changed):
            changed[at] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        elif how == 1:
            del changed[at:]
        elif how == 2:
            changed[at:at] = rng.randbytes(rng.choice([1, 4, 100]))
        else:
            changed[at : at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice([0, 1, 2**31, 2**32 - 1]))
    return bytes(changed)


def value(rng: random.Random, tempt: Temptation, depth: int = 0):
    """Any JSON value, often one that tempts."""
    choices = [None, True, 0, -1, 1e308, 0.5, "", "x", "é\0\ud800", tempt.file, tempt.pipe, tempt.address]
    choices += [f"file://{tempt.file}", base64.b64encode(photograph()).decode(), "A" * 1000]
    if depth > 3 or rng.random() < 0.6:
        return rng.choice(choices)
    inner = [value(rng, tempt, depth + 1) for _ in range(rng.randrange(4))]
    keys = ("image", "images", "path", "url", "bytes", "params", "columns", "data", "index", "b64")
    return inner if rng.random() < 0.5 else {rng.choice(keys): one for one in inner}


def damaged(rng, tempt, wrap):
    return wrap(rng, damage(photograph(rng.choice(KINDS), rng.randrange(20)), rng))


def headers(rng, tempt, wrap):
    return wrap(rng, png(rng))


def other_kinds(rng, tempt, wrap):
    return wrap(
        rng, rng.choice([photograph(kind) for kind in KINDS] + [rng.randbytes(200), b"%PDF-1.4", b"GIF89a", b""])
    )


def temptations(rng, tempt, wrap):
    text = rng.choice([tempt.file, tempt.pipe, tempt.address, f"file://{tempt.file}", f"../..{tempt.file}"])
    svg = f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{text}"/></svg>'
    eps = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n({text}) run\nshowpage\n"
    return wrap(rng, rng.choice([text, svg, eps, f"@{text}", f"<!DOCTYPE x SYSTEM '{text}'>"]).encode())


def any_json(rng, tempt, wrap):
    keys = ["dataframe_records", "dataframe_split", "inputs", "instances", "images", "score_threshold", "params"]
    keys += ["messages", "prompt", "signature_name"]
    content = {rng.choice(keys): value(rng, tempt) for _ in range(rng.randrange(1, 4))}
    return Sent("any_json", json.dumps(content).encode())


def damaged_json(rng, tempt, wrap):
    sent = wrap(rng, photograph())
    return sent._replace(body=damage(sent.body, rng))


def parameters(rng, tempt, wrap):
    picture = base64.b64encode(photograph()).decode()
    some = {"score_threshold": value(rng, tempt, 4), "batch_size": rng.choice([-1, 0, 10**18, 10**40, "x", None])}
    forms = [{"dataframe_records": [{"image": picture}], "params": some}, {"images": [picture], **some}]
    content = rng.choice([*forms, {"images": [picture] * rng.choice([65, 200])}])
    query = "score_threshold=" + rng.choice(["nan", "9", "%00", "x"])
    return Sent("parameters", json.dumps(content).encode(), query=query)


def types(rng, tempt, wrap):
    kinds = ["text/csv", "application/vnd.apache.parquet", "text/plain", "multipart/form-data", "", "a;b;c"]
    bodies = [b"image\n" + tempt.file.encode(), b"PAR1" + rng.randbytes(60) + b"PAR1", b"\xff\xfe", b"{}", photograph()]
    return Sent("types", rng.choice(bodies), rng.choice([*kinds, "application/json; charset=latin-1"]))


def deep(rng, tempt, wrap):
    return Sent("deep", rng.choice([b"[", b'{"images":[']) * rng.choice([2000, 100_000]))


def digits(rng, tempt, wrap):
    return Sent("digits", b'{"score_threshold": ' + b"9" * 6000 + b', "images": []}')


BAD = (damaged, headers, other_kinds, temptations, any_json, damaged_json, parameters, types, deep, digits)


def for_mlflow(rng: random.Random, content: bytes) -> Sent:
    """A photograph as MLflow's server takes it, in one of its forms."""
    text = base64.b64encode(content).decode()
    form = rng.choice(
        [
            {"dataframe_records": [{"image": text}]},
            {"dataframe_split": {"columns": ["image"], "data": [[text]]}},
            {"inputs": [{"image": text}]},
            {"instances": [{"image": text}]},
        ]
    )
    return Sent("photograph", json.dumps(form).encode())


def for_serve(rng: random.Random, content: bytes) -> Sent:
    """A photograph as `pipelines.serving` takes it, in one of its forms."""
    if rng.random() < 0.5:
        return Sent("photograph", content, rng.choice(["image/png", "image/jpeg", "application/octet-stream"]))
    return Sent("photograph", json.dumps({"images": [base64.b64encode(content).decode()]}).encode())


WRAPS = {"mlflow": for_mlflow, "serve": for_serve}


@contextlib.contextmanager
def temptation() -> Iterator[Temptation]:
    """A file, a pipe and an address for a while."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        file, pipe, visits = Path(folder) / "canary.png", Path(folder) / "pipe.png", []
        file.write_text(CANARY)
        os.mkfifo(pipe)

        def listen() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, where = listener.accept()
                    visits.append(str(where))
                    connection.close()

        threading.Thread(target=listen, daemon=True).start()
        yield Temptation(str(file), str(pipe), f"http://127.0.0.1:{listener.getsockname()[1]}/a.png", visits)


def post(url: str, sent: Sent, patience: float = 60) -> tuple[int, bytes]:
    """Send a request; status and body of the answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=patience)
    try:
        path = parts.path + (f"?{sent.query}" if sent.query else "")
        connection.request("POST", path, sent.body, {"Content-Type": sent.kind})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def fuzz(url: str, count: int, seed: int = 0, threads: int = 4) -> Report:
    """Send bad requests, all alike for the same seed; what came back, and what was wrong with it."""
    target = "mlflow" if url.endswith("/invocations") else "serve"
    report = Report()
    good = WRAPS[target](random.Random(3), photograph())
    before = post(url, good)

    with temptation() as tempt:

        def one(number: int) -> None:
            rng = random.Random(f"{seed} {number}")
            make = BAD[number % len(BAD)] if number < 10 * len(BAD) else rng.choice(BAD[:8])
            sent = make(rng, tempt, WRAPS[target])._replace(name=make.__name__)
            try:
                status, answer = post(url, sent)
            except (OSError, http.client.HTTPException) as error:
                status, answer = type(error).__name__, b""
            report.statuses[status] += 1
            if status not in FINE and (target, sent.name) not in KNOWN:
                report.wrong.append(f"{sent.name} {number}: {status}")
            if CANARY.encode() in answer:
                report.wrong.append(f"{sent.name} {number}: the file was read")

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(one, range(count)))
        report.wrong += [f"the address was visited from {where}" for where in tempt.visits]
    after = post(url, good)
    if not before[0] == after[0] == 200 or before[1] != after[1]:
        report.wrong.append(f"a good request: {before[0]} before, {after[0]} after, {before[1]!r} {after[1]!r}")
    return report


def memory(pid: int) -> dict[int, float]:
    """MiB that a process and those below it hold, by process id."""
    root = psutil.Process(pid)
    return {one.pid: one.memory_info().rss / 2**20 for one in [root, *root.children(recursive=True)]}


def main() -> int:
    """Read the command line, send the requests in tenths, and print memory after each; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_serving", description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pid", type=int, required=True, help="the server; its children are watched too")
    args = parser.parse_args()
    wrong = 0
    for part in range(10):
        report = fuzz(args.url, args.requests // 10, args.seed + part)
        held = memory(args.pid)
        biggest = max(held, key=held.get)
        print(f"{part + 1}/10: {report}; {sum(held.values()):.0f} MiB in {len(held)} processes, "
              f"the largest is {biggest} with {held[biggest]:.0f} MiB", flush=True)  # fmt: skip
        wrong += len(report.wrong)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
