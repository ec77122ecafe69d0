"""What every module may use: errors, atomic files, tables of names, a bounded cache."""
