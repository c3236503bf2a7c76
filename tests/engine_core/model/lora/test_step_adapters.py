import numpy as np

from engine_core.model.lora.step_adapters import StepAdapters


def test_rows_are_those_of_each_adapter():
    rows = StepAdapters(np.array([1, -1, 0, 1, 1], dtype=np.int32)).rows
    assert {index: found.tolist() for index, found in rows.items()} == {0: [2], 1: [0, 3, 4]}


def test_tiles_are_rows_of_one_adapter_that_lie_together():
    indices = np.array([-1, -1, 0, 1, 1, 1, 1, 1, -1, 1], dtype=np.int32)
    assert StepAdapters(indices).tiles(2).tolist() == [[2, 1, 0], [3, 2, 1], [5, 2, 1], [7, 1, 1], [9, 1, 1]]
