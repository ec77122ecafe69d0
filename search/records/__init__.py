"""What a sweep leaves behind: results, trials, the front, and fronts side by side. Free of heavy imports."""
