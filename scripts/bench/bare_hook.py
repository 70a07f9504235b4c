"""The floor of an HTTP scoring service: an aiohttp handler that decodes an event, takes one dot product and answers.

    python scripts/bench/bare_hook.py    with COEFFICIENTS (a file, as `Workload.write_for_peers` writes it)

No state, no stream, no limits. Prints {"http": …} when it listens.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web


def handler_of(weights: list[float], intercept: float) -> web.Application:
    """An application that scores by these weights."""
    names = [f"f{place}" for place in range(len(weights))]
    event_type = msgspec.defstruct("Event", [("id", str), *((name, float) for name in names)])
    decode, encode = msgspec.json.Decoder(event_type).decode, msgspec.json.Encoder().encode

    async def score(request: web.Request) -> web.Response:
        event: Any = decode(await request.read())
        logit = intercept + sum(getattr(event, name) * weight for name, weight in zip(names, weights, strict=True))
        answer = {"event_id": event.id, "score": 1 / (1 + math.exp(-logit))}
        return web.Response(body=encode(answer), content_type="application/json")

    app = web.Application()
    app.router.add_post("/v1/score", score)
    return app


async def main(app: web.Application) -> None:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    sys.stdout.write(json.dumps({"http": f"http://{host}:{port}"}) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    said = json.loads(Path(os.environ["COEFFICIENTS"]).read_text())
    asyncio.run(main(handler_of(said["weights"], said["intercept"])))
