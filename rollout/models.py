"""What the arms compute with, read from the backends: sha256 of checkpoint and bank, or unknown."""

import asyncio
from collections.abc import Mapping
from typing import Final

import httpx2
import structlog
from pydantic import ValidationError

from backends.protocol import MODEL
from rollout.reporting.report import Model

TIMEOUT_S: Final = 2.0
log = structlog.stdlib.get_logger("rollout.models")


async def identities(backends: Mapping[str, str]) -> dict[str, Model]:
    """Ask each backend (arm -> URL) what it is. An arm that does not tell is left out."""
    async with httpx2.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False) as client:
        found = await asyncio.gather(*(_identity(client, url) for url in backends.values()))
    return {arm: model for arm, model in zip(backends, found, strict=True) if model}


async def _identity(client: httpx2.AsyncClient, url: str) -> Model | None:
    where = f"{url.rstrip('/')}/v2/models/{MODEL}"
    try:
        answer = await client.get(where)
        answer.raise_for_status()
        facts = answer.json()["parameters"]
        return Model.model_validate({name: facts[name] for name in Model.model_fields})
    except (httpx2.HTTPError, ValidationError, ValueError, KeyError, TypeError) as error:
        log.warning("a backend does not tell what it is", url=where, reason=repr(error))
        return None
