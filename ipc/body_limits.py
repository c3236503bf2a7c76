"""Looks over a msgpack body before it is decoded: how deep it nests and how many items its headers announce.

Called by `codec.py` for each message that comes in. msgpack makes a list as long as its header says before it reads
the items, so a kilobyte of headers inside of headers would take hundreds of megabytes. Bodies with few bytes that could
be such a header, which are nearly all, are let through without a look at their structure.
Invariant: a body that passes is decoded with lists and maps of at most `MAX_ITEMS_IN_ALL` items in all.
"""

from ipc.errors import ProtocolError

MAX_BODY_BYTES = 24 * 2**20
"""Of the msgpack body alone; arrays of ids are parts of their own."""
MAX_DEPTH = 8
"""Records, lists and maps inside each other; the deepest message has four."""
MAX_ITEMS_IN_ALL = 2**18
"""The most that a valid message has is 150,000 (allowed tokens and bad words at their limits)."""

_CONTAINERS = bytes([*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF])
_OTHER_BYTES = bytes(code for code in range(256) if code not in _CONTAINERS)
_FIXED_SIZES = {
    **dict.fromkeys((0xC0, 0xC1, 0xC2, 0xC3), 0),
    **{0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8},
}
"""Bytes behind the first one of nil, booleans and numbers."""
_LENGTH_SIZES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""Bytes of the length of a string or of bytes."""
_COUNT_SIZES = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
"""Bytes of the count of an array or a map."""


def check_body(body: bytes) -> None:
    """Raise `ProtocolError` where a body is too large, nests too deep, or announces too many items.

    What is wrong with it otherwise is left to the decoder; a body that ends too early passes here.
    """
    if len(body) > MAX_BODY_BYTES:
        raise ProtocolError(f"a body of {len(body)} bytes")
    if len(body.translate(None, _OTHER_BYTES)) > MAX_DEPTH:
        _check_structure(body)


def _check_structure(body: bytes) -> None:
    """Go over the items of the first value; what follows it is for the decoder to refuse."""
    num_left = MAX_ITEMS_IN_ALL
    open_counts: list[int] = []
    """Items that each open array or map still wants."""
    position = 0
    while position < len(body):
        count, position = _read_item(body, position)
        if count:
            num_left -= count
            open_counts.append(count)
            if num_left < 0 or len(open_counts) > MAX_DEPTH:
                raise ProtocolError("too many items" if num_left < 0 else "nested too deep")
            continue
        while open_counts:
            open_counts[-1] -= 1
            if open_counts[-1]:
                break
            open_counts.pop()
        if not open_counts:
            return


def _read_item(body: bytes, position: int) -> tuple[int, int]:
    """How many items the one at this place contains, and where the next one begins."""
    code = body[position]
    position += 1
    if code < 0x80 or code >= 0xE0:
        return 0, position
    if code < 0xA0:
        return (code & 0x0F) * (2 if code < 0x90 else 1), position
    if code < 0xC0:
        return 0, position + (code & 0x1F)
    if code in _FIXED_SIZES:
        return 0, position + _FIXED_SIZES[code]
    size = _LENGTH_SIZES.get(code) or _COUNT_SIZES.get(code)
    if size is None:
        raise ProtocolError("an extension type")
    number = int.from_bytes(body[position : position + size], "big")
    if code in _LENGTH_SIZES:
        return 0, position + size + number
    return number * (2 if code >= 0xDE else 1), position + size
