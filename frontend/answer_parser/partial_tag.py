"""Text that may still become a tag when more of it arrives."""


def partial_tag_length(text: str, tag: str) -> int:
    """Characters at the end of `text` with which `tag` begins, fewer than the whole tag; 0 where there are none."""
    length = min(len(tag) - 1, len(text))
    while length and not text.endswith(tag[:length]):
        length -= 1
    return length
