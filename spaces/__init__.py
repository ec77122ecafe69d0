"""Everything that says what may be chosen: the choices per layer, and the rules over them. Free of torch."""
