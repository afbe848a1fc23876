from ai_task_processor.domain.outcome import Succeeded, Vector


def test_where_else_a_vector_is_kept_makes_it_no_other() -> None:
    here, there = Vector(b"1234", b"key"), Vector(b"1234")
    assert (here, hash(here), Succeeded(here)) == (there, hash(there), Succeeded(there))
    assert len({here, there, Vector(b"4321")}) == 2
    assert here != b"1234"
