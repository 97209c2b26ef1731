"""Expectation suites, one file per artifact kind, and the run of Great Expectations over them."""
