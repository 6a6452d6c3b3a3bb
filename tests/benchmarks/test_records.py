"""Results of one run are not mixed with those of another."""

# pyright: basic

from benchmarks.records import Row, merged


def row(contender: str, steps: int = 4, wall: str = "1") -> Row:
    about = {"network": "mlp", "T": str(steps), "batch": "2", "width": "8"}
    return about | {"contender": contender, "threads": "1", "wall ms": wall}


def test_a_case_measured_again_keeps_no_earlier_row() -> None:
    before = [row("peer"), row("ours"), row("peer", steps=16)]

    found = merged(before, [row("ours", wall="2")])

    assert found == [row("ours", wall="2"), row("peer", steps=16)]


def test_a_contender_that_is_measured_beside_others_leaves_them() -> None:
    before = [row("peer"), row("apart")]

    found = merged(before, [row("apart", wall="2")], beside=True)

    assert found == [row("peer"), row("apart", wall="2")]
