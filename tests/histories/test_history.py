"""What the processes of a history write down."""

from pathlib import Path

import pytest

from doorkey import Decision, Denied, Granted, KeyType, Mode, Principal, Reason, Unavailable

from .history import Operation, Record, Result, Writer, read, recorded, result_of

ME = Principal("ws_1", "key_1", "abcdefgh", KeyType.SECRET, Mode.TEST)
RECORDS = [
    Record(Operation.ISSUE, Result.DONE, 0, 1, 2),
    Record(Operation.VERIFY, Result.GRANTED, 2**32 - 1, 2**63, 2**64 - 1),
]


def written(path: Path) -> Path:
    """The file with all records in it."""
    with Writer(path) as writer:
        for record in RECORDS:
            writer.write(Operation(record.operation), Result(record.result), *record[2:])
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Records come back as they were written, in their order, from 24 bytes each."""
    path = written(tmp_path / "log")
    assert list(read(path)) == RECORDS
    assert recorded(path) == len(RECORDS) == path.stat().st_size / 24


def test_a_history_may_be_long(tmp_path: Path) -> None:
    """Records are read block by block, and none is lost between two."""
    path = tmp_path / "log"
    with Writer(path) as writer:
        for number in range(10_000):
            writer.write(Operation.VERIFY, Result.GRANTED, number, number, number)
    assert [record.token for record in read(path)] == list(range(10_000))


def test_a_torn_record_is_left_out(tmp_path: Path) -> None:
    """A process that is killed in the middle of writing spoils nothing but its last record."""
    path = written(tmp_path / "log")
    path.write_bytes(path.read_bytes()[:-1])
    assert list(read(path)) == RECORDS[:-1]


@pytest.mark.parametrize(
    ("decision", "result"),
    [
        (Granted(ME), Result.GRANTED),
        (Granted(ME._replace(token_id="somebody")), Result.MIXED_UP),
        (Denied(Reason.UNKNOWN), Result.UNKNOWN),
        (Denied(Reason.REVOKED), Result.REVOKED),
        (Denied(Reason.EXPIRED), Result.EXPIRED),
        (Denied(Reason.WORKSPACE_SUSPENDED), Result.SUSPENDED),
        (Denied(Reason.MALFORMED), Result.OTHER),
        (Unavailable("away"), Result.UNAVAILABLE),
    ],
)
def test_results(decision: Decision, result: Result) -> None:
    """A verdict is written down as what it means to whoever holds the token; a stranger's grant is none."""
    assert result_of(decision, ME.token_id) is result
