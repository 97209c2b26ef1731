from tasks.serving.pace import Pace


def test_a_size_not_seen_yet_is_run_with_its_deadline() -> None:
    assert not Pace().may_run_unlimited(100, 60.0)


def test_a_deadline_far_beyond_the_slowest_run_cannot_matter() -> None:
    pace = Pace()
    pace.saw(100, 0.010)
    assert pace.may_run_unlimited(100, 1.0)
    assert not pace.may_run_unlimited(100, 0.1)
    assert not pace.may_run_unlimited(100_000, 1.0)


def test_a_slow_run_is_forgotten_in_time() -> None:
    pace = Pace()
    pace.saw(100, 1.0)
    assert not pace.may_run_unlimited(100, 2.0)
    for _ in range(400):
        pace.saw(100, 0.001)
    assert pace.may_run_unlimited(100, 2.0)
