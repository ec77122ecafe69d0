"""The plain data of a device file: tables, codes, capability, TOML."""
