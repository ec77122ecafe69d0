"""Nothing of the caller's process is changed by a call: what torch, MLflow and Ray change is put back."""

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LoggerState = tuple[int, bool, bool, list[logging.Handler]]


@contextmanager
def unchanged() -> Iterator[None]:
    """Put back, after the block: environment variables, random states, torch's thread count, loggers, signal handlers, warning filters.

    Random states are those of torch, numpy and Python. Of loggers, those that existed before the block are put back.
    """
    variables, loggers, handlers = dict(os.environ), _logger_states(), _signal_handlers()
    try:
        with warnings.catch_warnings(), _torch_unchanged():
            yield
    finally:
        _restore_environment(variables)
        for logger, (level, disabled, propagate, attached) in loggers.items():
            logger.setLevel(level)
            logger.disabled, logger.propagate, logger.handlers[:] = disabled, propagate, attached
        for number, handler in handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


@contextmanager
def _torch_unchanged() -> Iterator[None]:
    import torch

    from quant_core.util.rng import private

    threads = torch.get_num_threads()
    try:
        with private():
            yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _logger_states() -> dict[logging.Logger, _LoggerState]:
    loggers = [logging.getLogger(), *(entry for entry in logging.root.manager.loggerDict.values() if isinstance(entry, logging.Logger))]
    return {logger: (logger.level, logger.disabled, logger.propagate, list(logger.handlers)) for logger in loggers}


def _signal_handlers() -> dict[signal.Signals, object]:
    """Return the handlers of SIGINT and SIGTERM that Python set; none outside the main thread, where they cannot be changed."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    return {number: handler for number, handler in handlers.items() if handler is not None}


def _restore_environment(variables: dict[str, str]) -> None:
    for name in [name for name in os.environ if name not in variables]:
        del os.environ[name]
    for name, value in variables.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
