"""Golden checks: the cost models against published and measured figures."""
