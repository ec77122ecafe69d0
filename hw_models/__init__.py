"""Everything that touches a second, a joule or a byte: device files and the cost tables built from them. Free of torch."""
