"""Everything that chooses, and runs, records and reports it: searchers, evaluator, backends, tracking, command line."""
