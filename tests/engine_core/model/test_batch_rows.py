"""Rows are reused, and growing loses nothing."""

from engine_core.model.batch_rows import BatchRows


def test_a_row_is_given_to_the_next_request_without_what_it_held():
    rows = BatchRows()
    row = rows.add([1, 2, 3], [10, 11, 12])
    rows.remove(row)
    assert rows.add([4], [20]) == row
    assert rows.block_table[row, : rows.num_blocks[row]].tolist() == [20]
    assert (rows.num_tokens[row], rows.last_token_ids[row]) == (1, 4)


def test_more_requests_and_longer_tables_than_there_was_room_for():
    rows = BatchRows()
    tables = [[number * 1000 + block for block in range(number * 10 + 1)] for number in range(40)]
    places = [rows.add([number], table[:1]) for number, table in enumerate(tables)]
    assert len(set(places)) == 40
    for row, table in zip(places, tables, strict=True):
        rows.extend_blocks(row, table[1:])
    assert [rows.block_table[row, : rows.num_blocks[row]].tolist() for row in places] == tables
    assert rows.last_token_ids[places].tolist() == list(range(40))


def test_sampled_tokens_become_the_last_ones():
    rows = BatchRows()
    first, other, last = (rows.add([1, 2], []) for _ in range(3))
    rows.append_tokens([last, first], [7, 8])
    assert rows.last_token_ids[[first, other, last]].tolist() == [8, 2, 7]
    assert rows.num_tokens[[first, other, last]].tolist() == [3, 2, 3]
