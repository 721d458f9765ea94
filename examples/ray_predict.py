# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Bulk prediction with Ray Data on several machines. Writes the rows of `sanet predict` to a folder of Parquet files.

    python examples/ray_predict.py runs/sanet calls/ --output predictions
    python examples/ray_predict.py runs/sanet @list.txt --output predictions --num_actors 16 --gpus_per_actor 1
    python examples/ray_predict.py runs/sanet clips/*.parquet --output predictions --audio_column audio

It runs on the cores of this machine, or on the cluster at `RAY_ADDRESS`. All machines of a cluster need sanet_hf and
access to the same files. Run the same command again to resume. It needs `pip install "sanet-hf[ray]"`.
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


# Disable Ray's usage statistics. Ray reads this variable once, when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


class Predictor:
    """
    A model in its own process, which classifies batches of files from Ray.

    Args:
        model: Folder or Hub id of a model.
        top_k: As in [`default_top_k`].
        parts: As in [`to_rows`].
        batch_size: Windows per batch.
        audio_column: Column with the content of files, or None: batches contain paths.
        finished: Names of files of an earlier run, which are skipped.
        denoise: As in [`predict`].
        dtype, calibration_inputs: As in [`load_classifier`].
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
        """Return the rows of a batch, which has a column `path` of bytes or the audio column."""
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
        # Explicit types, since the type of an empty column is unknown.
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
    Classify files on a Ray cluster. If a process dies, another one repeats its task. Rows are written once.

    Args:
        model: Folder or Hub id of a model.
        inputs: As in [`find_audio_files`], or with `audio_column` Parquet files.
        output: Folder for Parquet files. Files that already have rows in it, also with an error, are skipped.
        audio_column: Column of the Parquet files with structs of `bytes` and `path`, as written by `datasets`.
        top_k: As in [`default_top_k`].
        parts: As in [`to_rows`].
        batch_size: Windows per batch.
        files_per_task: Files per task of a process.
        num_actors, cpus_per_actor, gpus_per_actor: Number of processes, and resources of each. A GPU can be shared.
        denoise: As in [`predict`].
        dtype: As in [`load_classifier`]. With `int8`, a model without calibration is calibrated on the files first,
            unless they are in tables. The machines of the cluster then need access to the folder of the model.

    Returns:
        Number of files with rows, and number of those that could not be classified.

    Raises:
        ValueError: The inputs or the model are invalid.
        OSError: A Parquet file does not exist.
    """
    import ray

    # Errors are found here instead of in every process.
    inputs = list(inputs)
    # Ranges measured on few files are not saved, so that the processes measure them again.
    calibration_inputs = inputs if audio_column is None else ()
    load_classifier(model, "cpu", dtype, calibration_inputs, denoise)
    finished, paths = read_finished(output), []
    if audio_column is None:
        # Bytes, since some names are not valid text.
        paths = [os.fsencode(path) for path in find_audio_files(inputs) if to_text(path) not in finished]
    if paths or audio_column is not None:
        with _ray_running():
            if audio_column is None:
                num_blocks = -(-len(paths) // files_per_task)
                dataset = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=num_blocks)
            else:
                dataset = ray.data.read_parquet(inputs, columns=[audio_column])
                # Several processes need several blocks, independent of the row groups.
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
    """Return the names of files that an earlier run classified, and delete incomplete Parquet files."""
    for path in output.glob("*.parquet"):
        try:
            parquet.read_metadata(path)
        except pyarrow.ArrowInvalid:
            path.unlink()
    return set(read_files(output)["path"])


def read_files(output: Path) -> pandas.DataFrame:
    """Return `path` and `error` of each file, without the rows of its parts."""
    paths = sorted(output.glob("*.parquet"))
    tables = [pandas.read_parquet(path, columns=["path", "start", "error"]) for path in paths]
    table = pandas.concat(tables) if tables else pandas.DataFrame(columns=["path", "start", "error"])
    return table[table["start"].isna()]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Return 0 for success, 1 if a file could not be classified, 2 for wrong options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or Hub id of a model")
    parser.add_argument("inputs", nargs="+", help="files, folders, patterns, @list.txt; or Parquet files")
    parser.add_argument("--output", type=Path, required=True, help="folder for Parquet files")
    parser.add_argument("--audio_column", help="column of Parquet files with structs of bytes and path")
    parser.add_argument("--top_k", type=int, help="classes per row (default: 1, or 5 for multi-label models)")
    parts = ["windows", "segments", "none"]
    parser.add_argument("--parts", choices=parts, default="windows", help="rows of long files (default: windows)")
    parser.add_argument("--batch_size", type=int, help="windows per batch (default: 32 on a GPU, else 8)")
    parser.add_argument("--files_per_task", type=int, default=64, help="files per task of a process (default: 64)")
    actors = "processes with a model (default: 1); leave a core free for reading and writing"
    parser.add_argument("--num_actors", type=int, default=1, help=actors)
    parser.add_argument("--cpus_per_actor", type=float, default=1, help="cores per process (default: 1)")
    parser.add_argument("--gpus_per_actor", type=float, default=0, help="GPUs per process, such as 0.5 (default: 0)")
    denoise = "reduce noise first, for a model that was trained on clips of sanet prepare --denoise"
    parser.add_argument("--denoise", action="store_true", help=denoise)
    dtypes = ["float32", "bfloat16", "float16", "int8"]
    parser.add_argument("--dtype", choices=dtypes, help="number format (default: as saved); int8 is for CPUs")
    arguments = vars(parser.parse_args(argv))
    try:
        num_files, num_errors = predict_with_ray(**arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{arguments['output']} contains rows of {num_files} files. {num_errors} could not be classified.")
    return 1 if num_errors else 0


if __name__ == "__main__":
    sys.exit(main())
