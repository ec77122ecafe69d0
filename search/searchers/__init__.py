"""Searchers: one file and one line each. A user's own goes in as `package.module:attribute`."""

SEARCHERS: dict[str, str] = {
    "uniform": "search.searchers.uniform:UniformSearcher",
    "random": "search.searchers.random:RandomSearcher",
    "tpe": "search.searchers.optuna_tpe:TpeSearcher",
}
