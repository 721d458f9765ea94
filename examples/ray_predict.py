# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Bulk prediction with Ray Data, where one machine is too small: the rows of `sanet predict`, as a folder of Parquet.

    python examples/ray_predict.py runs/sanet calls/ --output predictions
    python examples/ray_predict.py runs/sanet @list.txt --output predictions --num_actors 16 --gpus_per_actor 1
    python examples/ray_predict.py runs/sanet clips/*.parquet --output predictions --audio_column audio

It runs on the cores of this machine, or on the cluster that `RAY_ADDRESS` names: all machines must have sanet_hf
installed and see the same files. The same command goes on after an interruption. Needs `pip install "sanet-hf[ray]"`.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas
import pyarrow
from pyarrow import parquet

from sanet_hf.audio.find import find_audio_files
from sanet_hf.inference.int8 import load_classifier
from sanet_hf.inference.outputs import column_names, default_top_k, to_rows, to_table
from sanet_hf.inference.prediction import predict
from sanet_hf.optimization.optimize import prepare_classifier
from sanet_hf.utils.files import to_text
from sanet_hf.utils.openmp import find_short_wait


# Before Ray is imported, which reads it once: nobody is told that this runs.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


class Predictor:
    """
    A model in a process of its own, to which Ray gives batches of files.

    Args:
        model: Folder, or name of a model on the Hub.
        top_k: As [`default_top_k`] has it.
        parts: As [`to_rows`] has it.
        batch_size: Windows that are classified at once.
        audio_column: Of tables with the content of files; by default a batch has their paths.
        finished: Names of an earlier run, which are left out.
        denoise: As [`predict`] has it.
        dtype, calibration_inputs: As [`load_classifier`] has them.
    """

    def __init__(
        self,
        model: str,
        top_k: int | None,
        parts: str,
        batch_size: int | None,
        audio_column: str | None,
        finished: set[str],
        denoise: bool = False,
        dtype: str | None = None,
        calibration_inputs: Sequence[str | Path] = (),
    ):
        self.model, self.feature_extractor = load_classifier(
            model, dtype=dtype, calibration_inputs=calibration_inputs, denoise=denoise
        )
        self.model = prepare_classifier(self.model)
        self.top_k, self.parts, self.batch_size = default_top_k(self.model, top_k), parts, batch_size
        self.columns = column_names(self.top_k, self.model.config.problem_type == "multi_label_classification")
        self.audio_column, self.finished, self.denoise = audio_column, finished, denoise

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """Rows of a batch's files, which has the column `path`, of bytes, or the audio column."""
        if self.audio_column is None:
            paths = [os.fsdecode(path) for path in batch["path"].to_pylist()]
            return self._predict(paths)
        files = [audio for audio in batch[self.audio_column].to_pylist() if audio["path"] not in self.finished]
        return self._predict(files)

    def _predict(self, sources: Sequence[str | dict]) -> pyarrow.Table:
        rows = []
        options = {"batch_size": self.batch_size, "denoise": self.denoise}
        for prediction in predict(self.model, self.feature_extractor, sources, **options):
            rows += to_rows(prediction, self.top_k, self.parts)
        table = to_table(rows, self.columns)
        # An empty column would have no type of its own.
        kinds = {"string": pyarrow.string(), "Float64": pyarrow.float64()}
        types = {name: kinds[str(kind)] for name, kind in table.dtypes.items()}
        return pyarrow.Table.from_pandas(table, pyarrow.schema(types), preserve_index=False)


def predict_with_ray(
    model: str,
    inputs: Iterable[str],
    output: Path,
    *,
    audio_column: str | None = None,
    top_k: int | None = None,
    parts: str = "windows",
    batch_size: int | None = None,
    files_per_task: int = 64,
    num_actors: int = 1,
    cpus_per_actor: float = 1,
    gpus_per_actor: float = 0,
    denoise: bool = False,
    dtype: str | None = None,
) -> tuple[int, int]:
    """
    Classify files on a Ray cluster. A task whose process dies is done again by another; its rows are written once.

    Args:
        model: Folder, or name of a model on the Hub.
        inputs: As [`find_audio_files`] takes them, or, with `audio_column`, Parquet files.
        output: Folder for Parquet files; files that it has rows of, be it with an error, are left out.
        audio_column: Column of the Parquet files with structs of `bytes` and `path`, as `datasets` writes them.
        top_k: As [`default_top_k`] has it.
        parts: As [`to_rows`] has it.
        batch_size: Windows that are classified at once.
        files_per_task: Files that a process is given at once.
        num_actors, cpus_per_actor, gpus_per_actor: Processes, and what each has; a GPU can be shared.
        denoise: As [`predict`] has it.
        dtype: As [`load_classifier`] has it; `int8` calibrates a model without calibration on the files first, unless
            they are in tables. The cluster's machines must see the model's folder then.

    Returns:
        Files that there are rows of, and those among them that could not be classified.

    Raises:
        ValueError: Inputs or the model do not fit.
        OSError: There is no such Parquet file.
    """
    import ray

    # A mistake is found here, and not by every process.
    inputs = list(inputs)
    # The ranges of few files are not kept, so that the processes measure them again.
    calibration_inputs = inputs if audio_column is None else ()
    load_classifier(model, "cpu", dtype, calibration_inputs, denoise)
    finished, paths = read_finished(output), []
    if audio_column is None:
        # Bytes, since not all names are text.
        paths = [os.fsencode(path) for path in find_audio_files(inputs) if to_text(path) not in finished]
    if paths or audio_column is not None:
        with _ray_running():
            if audio_column is None:
                num_blocks = -(-len(paths) // files_per_task)
                dataset = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=num_blocks)
            else:
                dataset = ray.data.read_parquet(inputs, columns=[audio_column])
                # For several processes, whatever the row groups are.
                dataset = dataset.repartition(target_num_rows_per_block=files_per_task)
            left_out = finished if audio_column else set()
            dataset.map_batches(
                Predictor,
                batch_size=files_per_task,
                batch_format="pyarrow",
                fn_constructor_args=(
                    *(model, top_k, parts, batch_size, audio_column, left_out),
                    *(denoise, dtype, calibration_inputs),
                ),
                compute=ray.data.ActorPoolStrategy(size=num_actors),
                num_cpus=cpus_per_actor,
                num_gpus=gpus_per_actor,
                # Set in each actor before PyTorch is imported there.
                runtime_env={"env_vars": find_short_wait()},
            ).write_parquet(str(output.resolve()), mode="append")
    table = read_files(output)
    return len(table), int(table["error"].notna().sum())


@contextmanager
def _ray_running() -> Iterator[None]:
    import ray

    if ray.is_initialized():
        yield
        return
    ray.init(include_dashboard=False)
    try:
        yield
    finally:
        ray.shutdown()


def read_finished(output: Path) -> set[str]:
    """Names of the files that an earlier run wrote; what it was killed amid writing is removed."""
    for path in output.glob("*.parquet"):
        try:
            parquet.read_metadata(path)
        except pyarrow.ArrowInvalid:
            path.unlink()
    return set(read_files(output)["path"])


def read_files(output: Path) -> pandas.DataFrame:
    """`path` and `error` of each file, without the rows of its parts."""
    paths = sorted(output.glob("*.parquet"))
    tables = [pandas.read_parquet(path, columns=["path", "start", "error"]) for path in paths]
    table = pandas.concat(tables) if tables else pandas.DataFrame(columns=["path", "start", "error"])
    return table[table["start"].isna()]


def main(argv: Sequence[str] | None = None) -> int:
    """0 is success, 1 says that a file could not be classified, 2 misuse."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder, or name of a model on the Hub")
    parser.add_argument("inputs", nargs="+", help="files, folders, patterns, @list.txt; or Parquet files")
    parser.add_argument("--output", type=Path, required=True, help="folder for Parquet files")
    parser.add_argument("--audio_column", help="column of Parquet files with structs of bytes and path")
    parser.add_argument("--top_k", type=int, help="classes in a row (default: 1, or 5 where clips have several)")
    parts = ["windows", "segments", "none"]
    parser.add_argument("--parts", choices=parts, default="windows", help="rows of long files (default: windows)")
    parser.add_argument("--batch_size", type=int, help="windows classified at once (default: 32 on a GPU, else 8)")
    parser.add_argument("--files_per_task", type=int, default=64, help="files a process is given (default: 64)")
    actors = "processes with a model (default: 1); leave a core free for what reads and writes"
    parser.add_argument("--num_actors", type=int, default=1, help=actors)
    parser.add_argument("--cpus_per_actor", type=float, default=1, help="cores of each (default: 1)")
    parser.add_argument("--gpus_per_actor", type=float, default=0, help="GPUs of each, such as 0.5 (default: 0)")
    denoise = "reduce noise first, for a model that was trained on clips of sanet prepare --denoise"
    parser.add_argument("--denoise", action="store_true", help=denoise)
    dtypes = ["float32", "bfloat16", "float16", "int8"]
    parser.add_argument("--dtype", choices=dtypes, help="of the model (default: as it was saved); int8 is for CPUs")
    arguments = vars(parser.parse_args(argv))
    try:
        num_files, num_errors = predict_with_ray(**arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{arguments['output']} has rows of {num_files} files, {num_errors} of which could not be classified.")
    return 1 if num_errors else 0


if __name__ == "__main__":
    sys.exit(main())
