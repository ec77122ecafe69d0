"""The tools of every module: errors, atomic files, tables of names, a bounded cache."""
