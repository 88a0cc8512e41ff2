"""Orthanc's REST interface over the loopback: the only calls the plugin makes.

The plugin API has REST calls too, but those of plugin 4.0 carry no headers, and claims need ``If-Match``.
The token that Orthanc gives its plugins for this purpose replaces a password.
"""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

TIMEOUT_S: Final = 60.0  # one call; a busy SQLite can make a write wait for seconds


class OrthancError(Exception):
    """Orthanc answered with an error or not at all (status 0). The path is not part of the message."""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(f"{what}: HTTP {status}" if status else f"{what}: no answer")
        self.status = status


class NotFound(OrthancError):
    """The resource is gone."""


class Conflict(OrthancError):
    """Somebody else changed the metadata first."""


@dataclass(frozen=True)
class Response:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    def header(self, name: str) -> str | None:
        return next((v for k, v in self.headers.items() if k.lower() == name.lower()), None)


class Transport(Protocol):
    def __call__(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Response:
        """Make one call; any status is an answer. Raises OSError when there is none."""


@dataclass(frozen=True)
class Loopback:
    """HTTP to the Orthanc that loaded this plugin. ``authorization``: token from Orthanc itself."""

    port: int
    authorization: str
    tls: bool = False

    def __call__(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Response:
        connection = self._connection()
        try:
            connection.request(method, path, body, {"Authorization": self.authorization, **headers})
            answer = connection.getresponse()
            return Response(answer.status, answer.read(), dict(answer.getheaders()))
        except http.client.HTTPException as error:
            raise OSError(type(error).__name__) from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if not self.tls:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        # The certificate names the server's public name, not 127.0.0.1; the packets never leave the machine.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=TIMEOUT_S, context=context)


@dataclass(frozen=True)
class Stored:
    """Orthanc's answer to one stored instance."""

    instance: str
    series: str
    study: str
    new: bool


class OrthancApi:
    """REST calls by purpose. Every method raises OrthancError, NotFound or Conflict."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, path: str) -> Any:
        return json.loads(self._call("GET", path).body)

    def get_bytes(self, path: str) -> bytes:
        return self._call("GET", path).body

    def delete(self, path: str) -> None:
        self._call("DELETE", path)

    def exists(self, path: str) -> bool:
        try:
            self._call("GET", path)
        except NotFound:
            return False
        return True

    def store(self, dicom: bytes) -> Stored:
        """Store one instance; storing it again is no error and changes nothing."""
        answer = json.loads(self._call("POST", "/instances", dicom).body)
        if answer.get("Status") not in ("Success", "AlreadyStored"):  # a filter of the site's, and status 200
            raise OrthancError(403, "POST /instances filtered out")
        return Stored(
            answer["ID"], answer["ParentSeries"], answer["ParentStudy"], answer["Status"] == "Success"
        )

    def metadata(self, series: str, name: str) -> tuple[str, str] | None:
        """(value, ETag) of a series' metadata; None when there is none."""
        try:
            answer = self._call("GET", f"/series/{series}/metadata/{name}")
        except NotFound:
            return None
        return answer.body.decode("utf-8", "replace"), answer.header("ETag") or ""

    def put_metadata(self, series: str, name: str, value: str, etag: str | None) -> str:
        """Write metadata if it is still what ``etag`` names (None: absent); returns the new ETag.

        Raises Conflict when it is not. The ETag is read back: the one that Orthanc 1.10 answers to a PUT
        counts a revision that its SQLite index does not keep, so the next write would fail with it.
        """
        headers = {"If-Match": etag} if etag else {}
        self._call("PUT", f"/series/{series}/metadata/{name}", value.encode(), headers)
        found = self.metadata(series, name)
        if found is None or found[0] != value:
            raise Conflict(409, "metadata written by somebody else meanwhile")
        return found[1]

    def put_attachment(self, series: str, name: str, content: bytes) -> None:
        """Write or replace a series' attachment."""
        path = f"/series/{series}/attachments/{name}"
        try:
            etag = self._call("GET", f"{path}/md5").header("ETag")
        except NotFound:
            etag = None
        self._call("PUT", path, content, {"If-Match": etag} if etag else {})

    def _call(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Response:
        what = f"{method} /{path.split('/')[1].split('?')[0]}"
        try:
            answer = self._transport(method, path, body, headers or {})
        except OSError as error:
            raise OrthancError(0, what) from error
        if answer.status == 404:
            raise NotFound(404, what)
        if answer.status in (409, 412):
            raise Conflict(answer.status, what)
        if not 200 <= answer.status < 300:
            raise OrthancError(answer.status, what)
        return answer


def parse_orthanc_time(text: object) -> datetime | None:
    """Orthanc's ``20261123T051329`` (UTC), of jobs with a fraction; None when it is something else."""
    form = "%Y%m%dT%H%M%S.%f" if "." in str(text) else "%Y%m%dT%H%M%S"
    try:
        return datetime.strptime(str(text), form).replace(tzinfo=UTC)
    except ValueError:
        return None
