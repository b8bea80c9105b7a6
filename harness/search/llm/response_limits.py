"""What a server sends, as far as it is taken: plain bytes, so many and so long, read as UTF-8
whatever they claim to be; JSON, not nested too deeply.

In: an httpx2 response whose body is still to come; the text of a reply. Out: the response held to
its limits; what the JSON says. Refuses compressed replies, which could be a thousand times as long
as what was counted, and replies without end.
"""

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx2

# Of a reply: the longest answers are a few hundred kilobytes, and a stream has up to 300 bytes
# around each token.
MOST_BYTES = 64 << 20
MOST_NESTED = 50  # lists and objects in each other; a reply that is one has about six


def limit_reply(
    response: "httpx2.Response", seconds_left: Callable[[], float], silence: float
) -> None:
    """Hold a reply to a deadline, also one that comes byte by byte, and to MOST_BYTES.

    silence: seconds that a stream which has begun may send nothing; any other reply has until the
    deadline.
    """
    import httpx2

    response.encoding = "utf-8"  # whatever the server names: some of Python's codecs decode no text
    coding = response.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        if response.status_code < 400:
            raise httpx2.DecodingError(
                f"it is compressed (Content-Encoding: {coding}), though the request said identity"
            )
        del response.headers["content-encoding"]  # of a refusal the status says enough
        response.stream = httpx2.ByteStream(b"")
    stream = response.stream
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        response.request.extensions["timeout"]["read"] = min(silence, max(seconds_left(), 0.0))

    class Limited(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            received = 0
            for piece in stream:
                received += len(piece)
                if seconds_left() <= 0:
                    raise httpx2.ReadTimeout("the deadline is over")
                if received > MOST_BYTES:
                    raise httpx2.DecodingError(f"it is longer than {MOST_BYTES:,} bytes")
                yield piece

        def close(self) -> None:
            stream.close()

    response.stream = Limited()


def parse_json(text: str) -> Any:
    """Return what a JSON text says.

    Raises ValueError where it is none or nested deeper than a reader of it could follow.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [value]
    for _ in range(MOST_NESTED):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return value
    raise ValueError("it is nested too deeply")


def _inside(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
