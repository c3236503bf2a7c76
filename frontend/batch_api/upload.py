"""The body of `POST /v1/files`: a multipart form whose `file` goes to the disk as it comes, in constant memory.

Content is written under a name of its own, synced, and is nobody's until `publish` gives it the name of a file.
Invariant: when `receive_upload` raises, whatever the reason, nothing of the upload is left on the disk.
"""

import asyncio
import errno
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from frontend.batch_api.protocol import FileUpload
from frontend.batch_api.state_dir import StateDir
from frontend.edge import edge_settings
from frontend.errors import BodyTooLargeError, StorageError, UnsupportedMediaTypeError
from frontend.request_body import checked_body
from ipc.errors import InvalidRequestError

FORM_ROOM_BYTES = 64 * 1024
"""For what a form has beside its file."""
_WRITE_BYTES = 256 * 1024
_MAX_PARTS = 16
_MAX_NAME_CHARS = 64
_MAX_FILENAME_CHARS = 255
_NESTED = re.compile(r"(\w+)\[(\w+)\]")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f/\\]")
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that was received."""

    path: Path
    num_bytes: int
    filename: str
    form: FileUpload
    headers: Mapping[str, str]
    """Of the answer: fields that nothing reads."""


@dataclass(slots=True)
class _Part:
    """One part of the form, while it is read."""

    header_name: bytearray = field(default_factory=bytearray)
    header_value: bytearray = field(default_factory=bytearray)
    disposition: bytes = b""
    name: str = ""
    filename: str | None = None


async def receive_upload(request: Request, state_dir: StateDir, max_file_bytes: int) -> Upload:
    """Read the body to its end, and sync the file.

    Raises:
        UnsupportedMediaTypeError: the body is no multipart form.
        InvalidRequestError: it is malformed, the file or a field is missing, or a field is wrong.
        BodyTooLargeError: the file is too large.
        StorageError: the disk refuses.
    """
    content_type, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if content_type != b"multipart/form-data" or not boundary:
        raise UnsupportedMediaTypeError("The content type must be multipart/form-data, with a boundary.")
    form = _Form(boundary, max_file_bytes)
    path = state_dir.new_upload(uuid.uuid4().hex)
    is_complete = False
    try:
        descriptor = await asyncio.to_thread(os.open, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            async for chunk in request.stream():
                form.feed(chunk)
                if len(form.unwritten) >= _WRITE_BYTES:
                    await asyncio.to_thread(_write, descriptor, form.take())
            form.finish()
            await asyncio.to_thread(_write, descriptor, form.take())
            await asyncio.to_thread(os.fsync, descriptor)
        finally:
            os.close(descriptor)
        body, headers = checked_body(form.values(), FileUpload, is_strict=edge_settings(request.scope).strict_params)
        is_complete = True
        return Upload(path, form.num_file_bytes, form.filename, body, headers)
    except OSError as error:
        raise storage_error(error) from error
    finally:
        if not is_complete:
            path.unlink(missing_ok=True)


def storage_error(error: OSError) -> StorageError:
    """What a client is told when the disk refuses."""
    if error.errno in _FULL_DISK:
        return StorageError("The disk of the server is full.", code="storage_full")
    return StorageError("The server cannot read or write its files now.")


class _Form:
    """The parser's callbacks, and what they have found."""

    def __init__(self, boundary: bytes, max_file_bytes: int) -> None:
        self.unwritten = bytearray()
        """Content of the file that is to be written."""
        self.num_file_bytes = 0
        self.filename = ""
        self._max_file_bytes = max_file_bytes
        self._fields: dict[str, bytearray] = {}
        self._num_field_bytes = self._num_parts = 0
        self._has_file = self._has_ended = False
        self._part = _Part()
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise _malformed(error) from error

    def feed(self, chunk: bytes) -> None:
        """Take in some of the body."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed(error) from error

    def finish(self) -> None:
        """The body is complete."""
        if not self._has_ended:
            raise _malformed("it ends in the middle")
        if not self._has_file:
            raise InvalidRequestError("Missing required field: file.", param="file", code="missing_required_parameter")

    def take(self) -> bytes:
        """What is to be written now."""
        taken = bytes(self.unwritten)
        self.unwritten.clear()
        return taken

    def values(self) -> dict[str, Any]:
        """The fields beside the file, as JSON would have them."""
        values: dict[str, Any] = {}
        for name, raw in self._fields.items():
            try:
                text = raw.decode()
            except UnicodeDecodeError as error:
                raise InvalidRequestError(f"{name} is no text.", param=name) from error
            if nested := _NESTED.fullmatch(name):
                inner = values.setdefault(nested[1], {})
                if not isinstance(inner, dict):
                    raise InvalidRequestError(f"{nested[1]} is there twice.", param=nested[1])
                inner[nested[2]] = text
            elif name in values:
                raise InvalidRequestError(f"{name} is there twice.", param=name)
            else:
                values[name] = text
        return values

    def _on_part_begin(self) -> None:
        self._part = _Part()
        self._num_parts += 1
        if self._num_parts > _MAX_PARTS:
            raise InvalidRequestError(f"The form has more than {_MAX_PARTS} parts.")

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._part.header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.header_value += data[start:end]

    def _on_header_end(self) -> None:
        part = self._part
        if part.header_name.lower() == b"content-disposition":
            part.disposition = bytes(part.header_value)
        part.header_name.clear()
        part.header_value.clear()

    def _on_headers_finished(self) -> None:
        part = self._part
        _, options = parse_options_header(part.disposition)
        part.name = options.get(b"name", b"").decode(errors="replace")[:_MAX_NAME_CHARS]
        if part.name == "file":
            if self._has_file:
                raise InvalidRequestError("file is there twice.", param="file")
            self._has_file = True
            name = _UNPRINTABLE.sub("_", options.get(b"filename", b"").decode(errors="replace"))
            self.filename = name[-_MAX_FILENAME_CHARS:] or "file"
        elif part.name in self._fields:
            raise InvalidRequestError(f"{part.name} is there twice.", param=part.name)
        else:
            self._fields[part.name] = bytearray()

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part.name == "file":
            self.num_file_bytes += end - start
            if self.num_file_bytes > self._max_file_bytes:
                raise BodyTooLargeError(f"A file may have {self._max_file_bytes} bytes.", param="file")
            self.unwritten += data[start:end]
            return
        self._num_field_bytes += end - start
        if self._num_field_bytes > FORM_ROOM_BYTES:
            raise InvalidRequestError("The fields of the form are too long.")
        self._fields[self._part.name] += data[start:end]

    def _on_end(self) -> None:
        self._has_ended = True


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _malformed(reason: object) -> InvalidRequestError:
    return InvalidRequestError(f"The form is malformed: {reason}.", code="invalid_form")
