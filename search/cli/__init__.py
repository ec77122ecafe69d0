"""The `bitfront` command: one module per command, which imports what is heavy only when it runs."""
