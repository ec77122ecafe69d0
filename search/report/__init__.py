"""Pictures and pages of sweeps: plotly pages that work offline, and PNG files. The only home of plotly."""
