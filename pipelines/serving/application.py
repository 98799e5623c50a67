"""The Ray Serve application: photographs in, boxes out, in batches over all who ask at once."""

# No `from __future__ import annotations`: Serve looks at the annotation of `app` to make its arguments.
import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application, metrics

from pipelines.params import PARAMS_FILE, RegistryParams, load_stated
from pipelines.serving.following import Follower, Form, check, detect
from pipelines.serving.requests import BODY, LIMITS, Asked, TooLarge, read
from pipelines.tracking import registry, runs
from ssd.serving import InputError

BATCH = 16  # photographs that go through the network together at most
WAIT = 0.01  # seconds that the first of them waits for others
AT_ONCE = 32  # requests that a replica works on; each may hold LIMITS.body_bytes
QUEUED = 128  # that wait for one; others are answered 503 at once


class Arguments(BaseModel):
    """What `serve run pipelines.serving:app name=value …` takes.

    Attributes:
        model: models:/NAME@ALIAS, which is followed when the alias moves, or models:/NAME/NUMBER. By default the
            champion of the model in params.yaml.
        replicas: processes that detect.
        cpus, gpus: of each.
        poll: seconds between two looks at where the alias points.
        form: `weights`, `onnx` or `onnx_int8`, of which the last two have to be in `registry.formats`. By default on
            a CPU the ONNX file where the version has one, which finds the same and is faster, else the weights.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = ""
    replicas: Annotated[int, Field(ge=1)] = 1
    cpus: Annotated[float, Field(gt=0)] = 1.0
    gpus: Annotated[float, Field(ge=0)] = 0.0
    poll: Annotated[float, Field(gt=0)] = 5.0
    form: Form = "auto"


api = FastAPI(title="SSD detector", description="Boxes are [xmin, ymin, xmax, ymax] in pixels of the photograph.")


@serve.deployment(max_ongoing_requests=AT_ONCE, max_queued_requests=QUEUED, graceful_shutdown_timeout_s=30)
@serve.ingress(api)
class Detection:
    """A replica: the version of now, requests, and batches of photographs out of several requests."""

    def __init__(self, address: str, poll: float, form: Form) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.follower = Follower(address, runs.connect(), device, form)
        # one thread for all batches: the C library keeps memory for each that has ever detected
        self.detecting = ThreadPoolExecutor(1, "detect")
        self.stop = threading.Event()
        threading.Thread(target=self.follower.follow, args=(poll, self.stop), daemon=True).start()
        self.photographs = metrics.Counter("ssd_photographs", "Photographs answered.", ("model",))
        self.refused = metrics.Counter("ssd_refused", "Requests that were refused.", ("status",))
        self.batches = metrics.Histogram("ssd_batch", "Photographs in a batch.", [1, 2, 4, 8, 16])

    def __del__(self) -> None:
        self.stop.set()

    @api.post("/detect", openapi_extra=BODY)
    async def detect(self, request: Request) -> JSONResponse:
        """Detect in one photograph, sent as it is, or in several as base64 in JSON.

        The query `score_threshold` is for the first form; without it each class counts from the model's own score.
        """
        try:
            return await self._answer(await read(request))
        except InputError as error:
            return self._refuse(400, str(error))
        except TooLarge:
            return self._refuse(413, f"more than {LIMITS.body_bytes} bytes; send the photographs in several requests")

    @api.get("/health")
    async def health(self) -> dict[str, str]:
        """What is served, and what keeps this replica from following the alias, if anything does."""
        served = self.follower.current
        return {
            "address": self.follower.address,
            "model": served.model,
            "sha256": served.sha256,
            "form": served.form,
            "problem": self.follower.problem,
        }

    async def _answer(self, asked: Asked) -> JSONResponse:
        found = await asyncio.gather(*(self._batch((image, asked.threshold)) for image in asked.images))
        for number, (_, answer) in enumerate(found):
            if isinstance(answer, InputError):
                return self._refuse(400, f"image {number}: {answer}")
        rows = [{"model": model, **answer} for model, answer in found]
        for row in rows:
            self.photographs.inc(1, {"model": row["model"]})
        return JSONResponse({"predictions": rows} if asked.in_json else rows[0])

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT)
    async def _batch(self, items: list[tuple[bytes, float | None]]) -> list[tuple[str, dict[str, Any] | InputError]]:
        self.batches.observe(len(items))
        return await asyncio.get_running_loop().run_in_executor(self.detecting, detect, self.follower.current, items)

    def _refuse(self, status: int, problem: str) -> JSONResponse:
        self.refused.inc(1, {"status": str(status)})
        return JSONResponse({"error": problem}, status)


def app(args: Arguments) -> Application:
    """The application, for `serve run` and for Serve's configuration files.

    Raises:
        ServingError: there is no such version, or not in this form; better said here, once, than by every replica.
    """
    name = (load_stated().registry if PARAMS_FILE.exists() else RegistryParams()).name
    address = args.model or f"models:/{name}@{registry.CHAMPION}"
    check(address, runs.connect(), args.form)
    options = {"num_cpus": args.cpus, "num_gpus": args.gpus}
    deployment = Detection.options(num_replicas=args.replicas, ray_actor_options=options)
    return deployment.bind(address, args.poll, args.form)
