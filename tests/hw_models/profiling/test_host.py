from hw_models.profiling.host import host


def test_the_fingerprint_is_of_machine_and_threads() -> None:
    assert host(1) == host(1)
    assert host(1).fingerprint != host(2).fingerprint
    assert host(1).cpu
    assert host(1).cores >= 1
