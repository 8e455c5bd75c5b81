# After a change, `python -m client.generate` makes client.py of this.
"""Every call of the server, as a method."""

import asyncio
import contextlib
import copy
import errno
import os
import uuid
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pydantic import ValidationError

from .. import errors, wire
from .async_catalogue import AsyncCatalogueCalls
from .async_imports import AsyncImportCalls
from .async_keys import AsyncKeyCalls
from .async_users import AsyncUserCalls
from .parts import ACTOR_HEADER, error_of, given, key_header, own_key, retrain_request

if TYPE_CHECKING:  # half of what an import would take; the first `Client` brings it
    import httpx


class AsyncClient(AsyncCatalogueCalls, AsyncImportCalls, AsyncKeyCalls, AsyncUserCalls):
    """A connection to a Reckeeper server, for programs on asyncio.

    Answers are the models of `wire`. Calls that are safe to repeat are tried
    again, with growing pauses, while the server does not answer. Every error is
    a `ReckeeperError`: what the server answered, as the class of its code with
    `details` and `action`, or `UnavailableError` when it did not answer.

    Parameters
    ----------
    url : str
        Address of the server.
    timeout_seconds : float
        For one try; a retrain that waits has no limit.
    retry_seconds : float
        How long to go on trying; 0 tries once.
    retry_first : bool
        Whether to go on trying also before the server has answered once. False says at once
        that none is there.
    actor : str, optional
        Name in the audit trail, which then says ``api:ACTOR``: up to 64 letters, digits
        and ``. _ @ -``.
    key : str, optional
        API key, sent with every request. Default: the environment's RECKEEPER_API_KEY; an empty
        text sends none.
    transport : httpx.AsyncBaseTransport, optional
        What carries the requests, in place of connections to `url`. `httpx.MockTransport`
        answers them from a function, for tests; `httpx.AsyncHTTPTransport` takes certificates,
        proxies and addresses to bind.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        timeout_seconds: float = 30.0,
        retry_seconds: float = 5.0,
        retry_first: bool = True,
        actor: str | None = None,
        key: str | None = None,
        transport: "httpx.AsyncBaseTransport | None" = None,
    ) -> None:
        from .async_connection import AsyncConnection

        self._server = AsyncConnection(
            url,
            timeout_seconds=timeout_seconds,
            retry_seconds=retry_seconds,
            retry_first=retry_first,
            transport=transport,
        )
        headers = {} if actor is None else {ACTOR_HEADER: actor}
        self._server = self._server.with_headers(headers | key_header(own_key(key)))

    @property
    def url(self) -> str:
        """Address of the server, without its password."""
        return self._server.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._server.close()

    def as_actor(self, actor: str) -> "AsyncClient":
        """Return a client on the same connections whose calls name another actor."""
        return self._with_headers({ACTOR_HEADER: actor})

    def with_key(self, key: str) -> "AsyncClient":
        """Return a client on the same connections that sends another key; an empty text: none."""
        return self._with_headers(key_header(key))

    def _with_headers(self, headers: Mapping[str, str]) -> "AsyncClient":
        other = copy.copy(self)
        other._server = self._server.with_headers(headers)
        return other

    # Versions

    async def models(self) -> list[wire.Model]:
        """List the versions, the newest first."""
        return (await self._server.get(wire.ModelList, "/models")).models

    async def model(self, version: int) -> wire.ModelDetails:
        """Describe one version, with all that is known of it."""
        return (await self._server.get(wire.ModelAnswer, f"/models/{version}")).model

    async def activate(self, version: int, *, reason: str | None = None) -> wire.ModelDetails:
        """Activate a version."""
        path = f"/models/{version}/activate"
        body = given(reason=reason)
        return (
            await self._server.call(wire.ModelAnswer, "POST", path, json=body, repeat=True)
        ).model

    async def roll_back(self, *, reason: str | None = None) -> wire.ModelDetails:
        """Activate the version that was active before; again: the one before that."""
        body = given(reason=reason)
        return (
            await self._server.call(wire.ModelAnswer, "POST", "/models/rollback", json=body)
        ).model

    async def set_note(self, version: int, note: str | None) -> wire.ModelDetails:
        """Write a note on a version, up to 10,000 characters; None removes it."""
        path, body = f"/models/{version}", {"note": note}
        return (
            await self._server.call(wire.ModelAnswer, "PATCH", path, json=body, repeat=True)
        ).model

    async def pin(
        self, version: int, *, until: str | None = None, reason: str | None = None
    ) -> wire.ModelDetails:
        """Keep a version: while it is active no training replaces it, and nothing deletes it.

        Parameters
        ----------
        version : int
        until : str, optional
            RFC 3339, ``2026-01-31T12:00:00Z``. Default: until it is unpinned.
        reason : str, optional
        """
        path, body = f"/models/{version}/pin", given(until=until, reason=reason)
        return (
            await self._server.call(wire.ModelAnswer, "POST", path, json=body, repeat=True)
        ).model

    async def unpin(self, version: int, *, reason: str | None = None) -> wire.ModelDetails:
        """Unpin a version."""
        path, params = f"/models/{version}/pin", given(reason=reason)
        return (
            await self._server.call(wire.ModelAnswer, "DELETE", path, params=params, repeat=True)
        ).model

    async def delete_model(self, version: int, *, reason: str | None = None) -> wire.Deletion:
        """Delete an inactive version with its files."""
        params = given(reason=reason)
        return await self._server.call(wire.Deletion, "DELETE", f"/models/{version}", params=params)

    async def compare(
        self, version: int, other: int, *, k: int = 10, users: int = 2000
    ) -> wire.Comparison:
        """Compare two versions: what they are, and what users would see of each.

        Parameters
        ----------
        version, other : int
            The first and the second.
        k : int
            Length of the lists, 1 to 100.
        users : int
            How many users to draw at random, 1 to 20,000.
        """
        path, params = f"/models/{version}/compare/{other}", {"k": k, "users": users}
        return await self._server.call(
            wire.Comparison, "GET", path, params=params, repeat=True, waits=True
        )

    async def download(self, version: int, path: Path) -> Path:
        """Write a version as a file that another installation can import, and return its path.

        A file of this name is replaced, once the new one is whole.

        Raises
        ------
        DataError
            The file cannot be written.
        """
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")

        async def once() -> None:
            with part.open("wb") as file:
                path_there = f"/models/{version}/download"
                async with contextlib.aclosing(self._server.chunks(path_there)) as chunks:
                    async for chunk in chunks:
                        await asyncio.to_thread(file.write, chunk)

        try:
            if path.exists() and not path.is_file():
                raise FileExistsError(errno.EEXIST, "it is no regular file")
            await self._server.retrying(once)
            os.replace(part, path)
        except OSError as exc:
            raise errors.DataError(
                f"{path} cannot be written: {exc.strerror or exc}. Name a file in a folder that "
                "exists and has room."
            ) from exc
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        return path

    async def import_model(self, path: Path) -> wire.ModelDetails:
        """Take in a version that `download` wrote, here or elsewhere; it is not active yet.

        Raises
        ------
        DataError
            It is no file, or cannot be read.
        """
        if path.exists() and not path.is_file():
            raise errors.DataError(f"{path} is no file. Name one that `download` wrote.")
        try:
            with path.open("rb") as file:
                answer = await self._server.call(
                    wire.ModelAnswer, "POST", "/models/import", bundle=file, waits=True
                )
        except OSError as exc:
            raise errors.DataError(
                f"{path} cannot be read: {exc.strerror or exc}. Name a file that `download` wrote."
            ) from exc
        return answer.model

    async def timeline(self, *, limit: int = 50, before: int | None = None) -> wire.TimelinePage:
        """List what was active when, the latest first, with entry numbers below `before`."""
        params = given(limit=limit, before=before)
        return await self._server.get(wire.TimelinePage, "/timeline", params=params)

    # Training

    async def recipes(self) -> list[wire.Recipe]:
        """List the recipes, and the settings that each has."""
        return (await self._server.get(wire.RecipeList, "/recipes")).recipes

    async def retrain(
        self,
        *,
        recipe: str | None = None,
        settings: Mapping[str, object] | None = None,
        tune: bool = False,
        tune_seconds: float | None = None,
        drift: wire.Drift | None = None,
        promote: wire.Promote | None = None,
    ) -> wire.RetrainAnswer:
        """Train a new version, wait until it is done, and say what was made.

        Parameters
        ----------
        recipe : str, optional
            Default: that of the active version; ``spectral`` where tuning is asked for.
        settings : mapping, optional
            The recipe's; those left out have its defaults. Default: those of the active
            version, where it has the same recipe, else the defaults.
        tune : bool
            Find the settings on a part of the data that is held out.
        tune_seconds : float, optional
            How long to look for them, in seconds of CPU time, all cores together; above 0 and at
            most 86,400; only with `tune`. Default: 120 up to 100,000 interactions, 400 up to a
            million, beyond that 400 or what five fits take.
        drift : str, optional
            How far users' next choices are expected to lean to popular items, beyond what the
            interactions show: ``none``, ``mild`` or ``strong``; only with `tune`. Default: what
            the policy says.
        promote : str, optional
            Whether the new version is activated: ``always``, ``if_not_worse`` (unless the gate
            rejects it) or ``never``. Default: what the policy says of such a retrain.
        """
        body = retrain_request(
            recipe, settings, tune=tune, tune_seconds=tune_seconds, drift=drift, promote=promote
        )
        return await self._server.call(
            wire.RetrainAnswer, "POST", "/retrain", json=body, waits=True
        )

    async def start_retrain(
        self,
        *,
        recipe: str | None = None,
        settings: Mapping[str, object] | None = None,
        tune: bool = False,
        tune_seconds: float | None = None,
        drift: wire.Drift | None = None,
        promote: wire.Promote | None = None,
    ) -> wire.Job:
        """Start training a new version and return its job at once; see `retrain`."""
        body = retrain_request(
            recipe, settings, tune=tune, tune_seconds=tune_seconds, drift=drift, promote=promote
        )
        params = {"wait": "false"}
        return (
            await self._server.call(wire.JobAnswer, "POST", "/retrain", params=params, json=body)
        ).job

    async def start_evaluation(self) -> wire.Job:
        """Start measuring which recipe suits the stored interactions; return the job at once.

        Its `result` grows while it runs: `job` shows it.
        """
        params = {"wait": "false"}
        return (await self._server.call(wire.JobAnswer, "POST", "/evaluations", params=params)).job

    async def finish_job(self, job_id: int) -> wire.Job:
        """End the tuning of a job now, with the best that it has; the job goes on."""
        return (
            await self._server.call(wire.JobAnswer, "POST", f"/jobs/{job_id}/finish", repeat=True)
        ).job

    async def cancel_job(self, job_id: int, *, reason: str | None = None) -> wire.Job:
        """Ask a running job to end; it reads ``cancelled`` once it has."""
        path, body = f"/jobs/{job_id}/cancel", given(reason=reason)
        return (await self._server.call(wire.JobAnswer, "POST", path, json=body, repeat=True)).job

    async def jobs(self, *, limit: int = 20, before: int | None = None) -> wire.JobPage:
        """List jobs, the latest first, with numbers below `before`."""
        return await self._server.get(
            wire.JobPage, "/jobs", params=given(limit=limit, before=before)
        )

    async def job(self, job_id: int) -> wire.Job:
        """Describe one job."""
        return (await self._server.get(wire.JobAnswer, f"/jobs/{job_id}")).job

    def follow_job(self, job_id: int) -> AsyncGenerator[wire.Job, None]:
        """Yield a job each time that it has changed, up to its end.

        One that has ended is given once. A reader that is slow misses states,
        never the last. A stream that breaks is opened again.
        """
        return self._server.follow(f"/jobs/{job_id}/stream", state=wire.Job)

    # Policy and audit trail

    async def policy(self) -> wire.PolicyAnswer:
        """Return the policy in force."""
        return await self._server.get(wire.PolicyAnswer, "/policy")

    async def set_policy(
        self,
        policy: wire.Policy | Mapping[str, object],
        *,
        if_revision: int | None = None,
        reason: str | None = None,
    ) -> wire.PolicyAnswer:
        """Store a policy, which is in force from now on, and return it.

        Parameters
        ----------
        policy : Policy or mapping
            Whole: a field left out has its default. A secret given as ``***`` stays as it is.
        if_revision : int, optional
            Store only if this revision is still in force; else `ConflictError`.
        reason : str, optional

        Raises
        ------
        DataError
            A field cannot be used; the message and `details` name it, and nothing was stored.
        """
        body = policy.model_dump(mode="json") if isinstance(policy, wire.Policy) else dict(policy)
        params: dict[str, str | int] = given(if_revision=if_revision, reason=reason)
        return await self._server.call(
            wire.PolicyAnswer, "PUT", "/policy", params=params, json=body
        )

    async def policy_history(
        self, *, limit: int = 20, before: int | None = None
    ) -> list[wire.PolicyRevision]:
        """List the policies that were stored, the latest first, with revisions below `before`."""
        params = given(limit=limit, before=before)
        return (
            await self._server.get(wire.PolicyHistory, "/policy/history", params=params)
        ).policies

    async def audit(self, *, limit: int = 50, before: int | None = None) -> list[wire.AuditEntry]:
        """List who changed what, the latest first, with entry numbers below `before`."""
        params = given(limit=limit, before=before)
        return (await self._server.get(wire.AuditPage, "/audit", params=params)).entries

    async def verify_audit(self) -> wire.AuditCheck:
        """Say whether the audit trail is whole: nothing altered, removed, reordered or cut."""
        return await self._server.call(
            wire.AuditCheck, "GET", "/audit/verify", repeat=True, waits=True
        )

    # The installation

    async def demo(self) -> wire.Demo:
        """Say whether the demo data is loaded."""
        return await self._server.get(wire.Demo, "/demo")

    async def clear_demo(self) -> wire.DemoCleared:
        """Remove the demo data, and the versions that were trained on it."""
        return await self._server.call(wire.DemoCleared, "DELETE", "/demo", repeat=True, waits=True)

    async def ready(self) -> wire.Readiness:
        """Say whether the server can do its work; one that answers so never raises."""

        async def once() -> wire.Readiness:
            response = await self._server.request("GET", "/health/ready")
            with contextlib.suppress(ValidationError):
                return wire.Readiness.model_validate_json(response.content).bare()
            raise error_of(response)

        return await self._server.retrying(once)

    async def is_live(self) -> bool:
        """Say whether the server runs, at the first try."""
        try:
            await self._server.call(wire.Liveness, "GET", "/health/live")
        except errors.UnavailableError:
            return False
        return True

    async def metrics(self) -> str:
        """Return the server's metrics in Prometheus' text format."""

        async def once() -> str:
            response = await self._server.request("GET", "/metrics")
            if not response.is_success:
                raise error_of(response)
            return response.text

        return await self._server.retrying(once)
