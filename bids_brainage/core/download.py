"""One file from an address: goes on where an earlier transfer ended, and says in one line why it cannot."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from bids_brainage.core.errors import BrainAgeError

CHUNK = 1 << 20
LARGEST = 4 << 30
SECONDS = 30.0
RANGE_REFUSED = 416
ADVICE = "try again later, or give a copy of the file with --from"
SPAN = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def download(address: str, part: Path, *, size: int | None = None, timeout: float = SECONDS) -> None:
    """Fetch ``address`` into ``part``, from the byte on at which an earlier call ended (RFC 9110, section 14).

    Where the server does not honour ranges, it begins anew. What was received is kept on any error but too many bytes.

    Parameters
    ----------
    address : str
        http or https.
    part : Path
        Grows while bytes come in; its folder exists. A file that has ``size`` bytes is left alone.
    size : int, optional
        Bytes that are expected; without it, what the server says, and 4 GiB at most.
    timeout : float
        Seconds without an answer after which it gives up.

    Raises
    ------
    BrainAgeError
        Where the address cannot be reached, the server refuses, or the transfer ends early or goes on too long.
    OSError
        Where ``part`` cannot be written.
    """
    have = part.stat().st_size if part.is_file() else 0
    if have == size:
        return
    response = _open(address, 0 if have > (size or LARGEST) else have, timeout)
    with response:
        start, announced = _extent(response, address, have)
        if size is not None and announced not in (None, size):
            raise BrainAgeError(f"{address}: is {announced} bytes long, not the {size} of the file; {ADVICE}")
        expected = size if size is not None else announced
        with part.open("r+b" if start else "wb") as stream:
            if start:
                stream.truncate(start)
                stream.seek(start)
            for chunk in _chunks(response, address):
                stream.write(chunk)
                stream.flush()
                if stream.tell() > (size or LARGEST):
                    part.unlink()
                    raise BrainAgeError(f"{address}: sends more than {size or LARGEST} bytes, not the file; removed")
            done = stream.tell()
    if expected is not None and done < expected:
        raise _interrupted(address, f"{done} of {expected} bytes came")


def _interrupted(address: str, how: str) -> BrainAgeError:
    return BrainAgeError(f"{address}: the transfer ended early ({how}); run it again to go on from there")


def _open(address: str, start: int, timeout: float) -> HTTPResponse:
    if not address.startswith(("https://", "http://")):
        raise BrainAgeError(f"{address}: only http and https are fetched; give a copy of the file with --from")
    headers = {"User-Agent": "bids-brainage", "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={start}-"} if start else {}
    try:
        answer: HTTPResponse = urlopen(Request(address, headers=headers), timeout=timeout)  # noqa: S310 - http(s) alone
    except HTTPError as error:
        if error.code == RANGE_REFUSED and start:
            return _open(address, 0, timeout)
        raise BrainAgeError(f"{address}: the server answered {error.code} ({error.reason}); {ADVICE}") from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise BrainAgeError(f"{address}: cannot be reached ({reason}); check the network, {ADVICE}") from None
    return answer


def _extent(response: HTTPResponse, address: str, have: int) -> tuple[int, int | None]:
    """At which byte the answer begins, and how many the whole file has where the server says."""
    if response.status != 206:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    span = SPAN.fullmatch(response.headers.get("Content-Range", ""))
    if span is None or int(span[1]) > have:
        raise BrainAgeError(f"{address}: the server sent another part than was asked for; {ADVICE}")
    return int(span[1]), None if span[2] == "*" else int(span[2])


def _chunks(response: HTTPResponse, address: str) -> Iterator[bytes]:
    try:
        while chunk := response.read1(CHUNK):
            yield chunk
    except (OSError, HTTPException) as error:
        raise _interrupted(address, str(error) or type(error).__name__) from None
