"""Where sweeps are recorded unless somebody says otherwise."""

DEFAULT_URI = "sqlite:///mlflow.db"
"""MLflow's tracking uri: a file in the working folder."""
