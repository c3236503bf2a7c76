"""What the process of the tests has loaded is no part of what they measure."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def loaded_objects_stay_frozen() -> Iterator[None]:
    """Each measurement collects garbage before its clock runs, which takes half a second with torch loaded."""
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "unfreeze", lambda: None)
        yield
    gc.unfreeze()
