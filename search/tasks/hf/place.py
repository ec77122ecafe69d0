"""A network and its tokenizer or processor from one folder, or from the hub's cache; nothing is downloaded unless it is asked for."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from quant_core.util.errors import InputError
from quant_core.util.quiet import quiet_library
from quant_core.util.text import listed
from search.tasks.hf.kinds import KINDS, Kind


def load_network(model: str, kind: Kind, download: bool) -> nn.Module:
    """Return the network that a folder or a hub id holds, in eval mode and in the precision in which it is stored.

    safetensors files are memory-mapped by transformers: weights take their own size once, and no copy beside it.

    Raises:
        InputError: no such place, no weights there, a network of another kind, code of its own, or weights that do not fill it.
    """
    transformers = _library()
    options: dict[str, Any] = {"local_files_only": not download, "trust_remote_code": False}
    if kind.name == "sentence-similarity":
        options["add_pooling_layer"] = False
    name = _local(model)
    with _quiet(transformers), _answered(model, kind, download):
        config = transformers.AutoConfig.from_pretrained(name, local_files_only=not download, trust_remote_code=False)
        _check_kind(transformers, config, model, kind)
        auto = getattr(transformers, kind.auto)
        try:
            network, info = auto.from_pretrained(name, dtype="auto", output_loading_info=True, **options)
        except TypeError:  # no such layer in this family of networks
            options.pop("add_pooling_layer", None)
            network, info = auto.from_pretrained(name, dtype="auto", output_loading_info=True, **options)
    missing = sorted(info["missing_keys"])
    if missing:
        raise InputError(
            f"model = {model!r} holds no weights for {listed(missing, 4)}: it was not trained as {kind.name!r}. Give a network that was, "
            f"or another kind: {listed(KINDS)}."
        )
    made: nn.Module = network.eval()
    return made


def load_processor(model: str, kind: Kind, download: bool) -> Any:
    """Return the tokenizer, image processor or speech processor that lies beside the network.

    Raises:
        InputError: there is none.
    """
    transformers = _library()
    options: dict[str, Any] = {"backend": "pil"} if kind.processor == "AutoImageProcessor" else {}
    auto = getattr(transformers, kind.processor)
    try:
        with _quiet(transformers):
            made = auto.from_pretrained(_local(model), local_files_only=not download, trust_remote_code=False, **options)
    except Exception as error:
        raise InputError(
            f"model = {model!r} has no {_noun(kind)} beside its weights that transformers can read ({_first_line(error)}); save it there: "
            f"{_noun(kind).replace(' ', '_')}.save_pretrained(FOLDER)."
        ) from error
    if not _is_whole(made, kind):
        raise InputError(
            f"model = {model!r} has no {_noun(kind)} beside its weights; save it there: {_noun(kind)}.save_pretrained(FOLDER)."
        )
    return made


def _is_whole(made: Any, kind: Kind) -> bool:
    """Tell whether a tokenizer has words, and a processor of speech both its parts: transformers gives less without an error."""
    if kind.processor == "AutoProcessor":
        return all(getattr(made, part, None) is not None for part in ("feature_extractor", "tokenizer"))
    return kind.processor != "AutoTokenizer" or bool(made.get_vocab())


def _noun(kind: Kind) -> str:
    return {"AutoTokenizer": "tokenizer", "AutoImageProcessor": "image processor"}.get(kind.processor, "processor")


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise InputError(f"the task hf needs transformers ({error}): pip install 'bitfront[transformers]'.") from error
    return transformers


def _local(model: str) -> str:
    """Return the folder's path, or the hub id as it is."""
    folder = Path(model).expanduser()
    return str(folder) if folder.is_dir() else model


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep transformers' reports of a load off the screen: what matters of them is an error here."""
    logging = transformers.utils.logging
    verbosity, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with quiet_library():
            yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _answered(model: str, kind: Kind, download: bool) -> Iterator[None]:
    """Turn an error of transformers into one sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"model = {model!r}: {_reason(model, kind, download, error)}") from error


def _reason(model: str, kind: Kind, download: bool, error: Exception) -> str:
    folder = Path(model).expanduser()
    if "trust_remote_code" in str(error):
        return "the network brings code of its own, which hf never runs; load it in a task of your own (docs/own-task.md)."
    if folder.is_dir() and not (folder / "config.json").is_file():
        return "the folder has no config.json; give the folder that save_pretrained wrote."
    if not folder.is_dir() and isinstance(error, OSError):
        if download:
            return f"the hub did not give it ({_first_line(error)}); give a folder, or the id as on https://huggingface.co/models."
        return "there is no such folder, nor such a network in the Hugging Face cache; give a folder, or download = true for a hub id."
    return f"transformers cannot load it as {kind.name!r} ({_first_line(error)}); give the folder that save_pretrained wrote."


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _check_kind(transformers: Any, config: Any, model: str, kind: Kind) -> None:
    """Refuse a network that was saved as another class than the kind's.

    Raises:
        InputError: naming the kinds that fit.
    """
    saved = tuple(config.architectures or ())
    if kind.name == "sentence-similarity" or not saved:
        return
    wanted = _built_as(transformers, config, kind)
    if wanted in saved:
        return
    fitting = [name for name, other in KINDS.items() if other.auto != "AutoModel" and _built_as(transformers, config, other) in saved]
    advice = f"give kind = {fitting[0]!r}" if fitting else f"the kinds are {listed(KINDS)}; for others write a task (docs/own-task.md)"
    raise InputError(f"model = {model!r} holds a {listed(saved)}; kind = {kind.name!r} needs a {wanted or kind.auto}: {advice}.")


def _built_as(transformers: Any, config: Any, kind: Kind) -> str:
    """Return the name of the class that the kind builds from a configuration; "" where there is none."""
    mapping = getattr(transformers, kind.auto)._model_mapping
    made = mapping.get(type(config), "")
    classes = made if isinstance(made, tuple) else (made,)
    return next((built.__name__ for built in classes if not isinstance(built, str)), "")
