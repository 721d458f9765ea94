# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The model card of a trained classifier: what the Hub reads of it, and what people do."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id
from scipy.stats import binomtest
from transformers import FeatureExtractionMixin, PreTrainedModel

from .evaluation import Evaluation
from .metrics import THRESHOLD


SPLITS = ("train", "validation", "test")
# Title and meaning of each metric, in the order in which they are shown.
METRICS = {
    "mAP": ("mAP", "mean over classes of the average precision; 1 is perfect"),
    "accuracy": ("Accuracy", "part of the clips that are right"),
    "macro_f1": ("Macro F1", "F1 averaged over classes, rare and frequent ones alike"),
    "top_3_accuracy": ("Top-3 accuracy", "part of the clips whose class is among the three most probable"),
    "auroc": ("AUROC", "how well each class is told from the rest; 0.5 is chance, 1 perfect"),
    "ece": ("ECE", "expected calibration error: mean distance between probability and being right; 0 is perfect"),
}
# What the Hub calls the metrics that go into its index.
METRIC_TYPES = {"mAP": "mAP", "accuracy": "accuracy", "macro_f1": "f1"}
MAX_CLASSES = 50
# Of a class with fewer clips the results say little.
FEW_CLIPS = 10


def write_model_card(
    output_dir: str | Path,
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    evaluations: Mapping[str, Evaluation],
    dataset_name: str,
    dataset_id: str | None,
    base_model: str | None,
    hyperparameters: Mapping[str, object],
    training_seconds: float | None,
    trained_on: str | None = None,
) -> None:
    """
    Write `output_dir/README.md`: metadata for the Hub, and what the model is, how to use it, its results, training and
    limitations.

    Args:
        output_dir: The model's folder; its name is the model's.
        model, feature_extractor: As they are saved there.
        evaluations: By split, any of `train`, `validation` and `test`.
        dataset_name: What the training data are called.
        dataset_id: Their id on the Hub, if they are there.
        base_model: Hub id or folder of the model that was fine-tuned; `None` if it was trained from scratch.
        hyperparameters: Names and values of the options of training.
        training_seconds: How long training took.
        trained_on: Processor, number format and libraries.
    """
    output_dir = Path(output_dir)
    evaluations = in_order(evaluations)
    name = output_dir.resolve().name
    # A folder in the metadata would be refused by the Hub.
    dataset_id = dataset_id if dataset_id and _is_hub_id(dataset_id) else None
    base_id = base_model if base_model and _is_hub_id(base_model) else None
    card_data = make_card_data(name, model, evaluations, dataset_name, dataset_id, base_id)
    sections = [
        f"# {_escape(name)}",
        _describe(model, feature_extractor, dataset_name, dataset_id, base_model, base_id),
        _show_use(name, model, feature_extractor),
        _show_results(evaluations),
        _show_training(evaluations, hyperparameters, training_seconds, trained_on),
        _show_limitations(model, evaluations),
    ]
    text = "\n\n".join(sections)
    output_dir.mkdir(parents=True, exist_ok=True)
    ModelCard(f"---\n{card_data.to_yaml()}\n---\n\n{text}\n").save(output_dir / "README.md")


def make_card_data(
    name: str,
    model: PreTrainedModel,
    evaluations: Mapping[str, Evaluation],
    dataset_name: str,
    dataset_id: str | None,
    base_id: str | None,
) -> ModelCardData:
    """Metadata of the card, with the results of the test split or, without one, of the validation split."""
    evaluation = evaluations.get("test", evaluations.get("validation"))
    results = None
    if evaluation is not None:
        results = [
            EvalResult(
                task_type="audio-classification",
                task_name="Audio classification",
                dataset_type=dataset_id or "audiofolder",
                dataset_name=dataset_name,
                dataset_split=evaluation.split,
                metric_type=METRIC_TYPES[metric],
                metric_name=METRICS[metric][0],
                metric_value=float(evaluation.metrics[metric]),
            )
            for metric in (("mAP" if evaluation.is_multi_label else "accuracy"), "macro_f1")
        ]
    tags = ["audio-classification", model.config.model_type]
    if model.config.model_type == "sanet" and getattr(model.config, "auto_map", None):
        tags.append("custom_code")
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=tags,
        base_model=base_id,
        datasets=[dataset_id] if dataset_id else None,
        metrics=[result.metric_type for result in results] if results else None,
        model_name=name if results else None,
        eval_results=results,
    )


def in_order(evaluations: Mapping[str, Evaluation]) -> dict[str, Evaluation]:
    """By split: train, validation, test, then others."""
    return {split: evaluations[split] for split in (*SPLITS, *evaluations) if split in evaluations}


def accuracy_interval(evaluation: Evaluation) -> tuple[float, float]:
    """Where the accuracy lies with 95 % confidence (Wilson's interval), given that clips are independent."""
    interval = binomtest(int(evaluation.is_right.sum()), len(evaluation.files)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def format_duration(seconds: float) -> str:
    """For instance `4.0 s`, `12.5 min` or `131 h`."""
    size, unit = next(((size, unit) for size, unit in ((3600, "h"), (60, "min")) if seconds >= size), (1, "s"))
    value = seconds / size
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"


def list_classes(evaluation: Evaluation) -> list[dict]:
    """`label`, `precision`, `recall`, `f1` and `support` of each class; what has no clips to be of is `None`."""
    values = zip(evaluation.labels, evaluation.predicted_matrix.sum(axis=0), *evaluation.per_class().values())
    return [
        {
            "label": label,
            "precision": precision if num_predicted else None,
            "recall": recall if support else None,
            "f1": f1 if support else None,
            "support": support,
        }
        for label, num_predicted, precision, recall, f1, support in values
    ]


def _describe(
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    dataset_name: str,
    dataset_id: str | None,
    base_model: str | None,
    base_id: str | None,
) -> str:
    origin = "trained from scratch"
    if base_id:
        origin = f"fine-tuned from [{_escape(base_id)}](https://huggingface.co/{base_id})"
    elif base_model:
        origin = f"fine-tuned from a checkpoint in a folder ({_escape(Path(base_model).resolve().name)})"
    data = _escape(dataset_name)
    if dataset_id:
        data = f"[{data}](https://huggingface.co/datasets/{dataset_id})"
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    several = ", of which a clip can have several" if _is_multi_label(model) else ""
    more = f" and {len(labels) - MAX_CLASSES} more (`id2label` in `config.json`)" if len(labels) > MAX_CLASSES else ""
    text = (
        f"An audio classifier with {len(labels)} classes{several}: `{type(model).__name__}` with "
        f"{model.num_parameters():,} parameters, {origin} on {data}.\n\n"
        f"Classes: {', '.join(map(_escape, labels[:MAX_CLASSES]))}{more}.\n\n"
        f"It takes mono audio at {feature_extractor.sampling_rate:,} Hz."
    )
    # What `max_length` means for other feature extractors differs from one to the next.
    if model.config.model_type == "sanet" and feature_extractor.max_length is not None:
        seconds = f"{feature_extractor.max_length / feature_extractor.sampling_rate:.4g} s"
        text += f" Clips may be up to {seconds} long, and shorter by any amount; of a longer one "
        text += (
            f"transformers' pipeline hears the middle {seconds}, and `sanet predict`, as in the metrics below, all."
        )
    return text


def _show_use(name: str, model: PreTrainedModel, feature_extractor: FeatureExtractionMixin) -> str:
    sampling_rate = feature_extractor.sampling_rate
    is_sanet = model.config.model_type == "sanet"
    remote_code = (
        " Where sanet_hf is not installed, leave out its import and pass `trust_remote_code=True` to `pipeline`: the "
        "repository carries the code."
    )
    return f"""\
## Use

```python
import numpy as np
{"import sanet_hf  # makes the model known to transformers" + chr(10) if is_sanet else ""}\
from transformers import pipeline

classifier = pipeline("audio-classification", model={json.dumps(name, ensure_ascii=False)})
noise = 0.1 * np.random.default_rng(0).standard_normal({sampling_rate}, dtype=np.float32)  # 1 s
print(classifier({{"array": noise, "sampling_rate": {sampling_rate}}}))
# print(classifier("recording.wav"))
```

The name is that of the model's folder; for the model on the Hub, give its id.{remote_code if is_sanet else ""}"""


def _show_results(evaluations: Mapping[str, Evaluation]) -> str:
    if not evaluations:
        return "## Results\n\nThe model was not evaluated."
    shown = [metric for metric in METRICS if any(metric in e.metrics for e in evaluations.values())]
    table = _table(
        ["Split", "Clips", *(METRICS[metric][0] for metric in shown)],
        [
            [split, len(evaluation.files), *(evaluation.metrics.get(metric) for metric in shown)]
            for split, evaluation in evaluations.items()
        ],
    )
    meanings = "\n".join(f"- {METRICS[metric][0]}: {METRICS[metric][1]}" for metric in shown)
    parts = ["## Results", table, meanings]
    if any(evaluation.is_multi_label for evaluation in evaluations.values()):
        parts.append(
            f"A class counts as predicted from a probability of {THRESHOLD}; a clip is right if all its classes are."
        )
    for split, evaluation in evaluations.items():
        rows = [list(row.values()) for row in list_classes(evaluation)]
        classes = _table(["Class", "Precision", "Recall", "F1", "Clips"], rows)
        parts.append(f"<details>\n<summary>Each class of the {split} split</summary>\n\n{classes}\n\n</details>")
    return "\n\n".join(parts)


def _show_training(
    evaluations: Mapping[str, Evaluation],
    hyperparameters: Mapping[str, object],
    training_seconds: float | None,
    trained_on: str | None,
) -> str:
    parts = ["## Training"]
    if training_seconds is not None:
        parts.append(f"Training took {format_duration(training_seconds)}.")
    if trained_on is not None:
        parts.append(f"Trained on: {_escape(trained_on)}.")
    if evaluations:
        sizes = ", ".join(f"{len(evaluation.files):,} {split}" for split, evaluation in evaluations.items())
        parts.append(f"Clips: {sizes}.")
    if hyperparameters:
        parts.append(_table(["Option", "Value"], [[option, str(value)] for option, value in hyperparameters.items()]))
    return "\n\n".join(parts)


def _show_limitations(model: PreTrainedModel, evaluations: Mapping[str, Evaluation]) -> str:
    limitations = [
        "It knows no other classes than these: sounds of others get none of them or a wrong one."
        if _is_multi_label(model)
        else "It assigns every clip to one of its classes, also clips of something else.",
        "The results hold for recordings like those of the data set; other microphones, rooms, noise or sources were "
        "not tested.",
        "Where recordings of one source (a speaker, a place, a session) stand in more than one split, the results are "
        "better than they would be for new sources.",
    ]
    if evaluations:
        split, evaluation = list(evaluations.items())[-1]
        if split != "test":
            limitations.append(
                f"There was no test split. Results of the {split} split, which can have influenced training or the "
                "choice of the epoch, are better than they would be for new clips."
            )
        low, high = accuracy_interval(evaluation)
        limitations.append(
            f"With {len(evaluation.files):,} clips in the {split} split, the accuracy is only known to lie between "
            f"{low:.3f} and {high:.3f} (95 % confidence, if the clips are independent of each other)."
        )
        counts = evaluation.true_matrix.sum(axis=0)
        few = [
            f"{_escape(evaluation.labels[index])} ({counts[index]})" for index in np.flatnonzero(counts < FEW_CLIPS)
        ]
        if few:
            more = f" and {len(few) - MAX_CLASSES} more" if len(few) > MAX_CLASSES else ""
            limitations.append(
                f"Classes with fewer than {FEW_CLIPS} clips in the {split} split, whose results say little: "
                f"{', '.join(few[:MAX_CLASSES])}{more}."
            )
    return "\n".join(["## Limitations\n", *(f"- {limitation}" for limitation in limitations)])


def _is_multi_label(model: PreTrainedModel) -> bool:
    return model.config.problem_type == "multi_label_classification"


def _is_hub_id(name: str) -> bool:
    """Whether a name of a model is an id on the Hub rather than a folder."""
    if Path(name).exists():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown table; text on the left, numbers on the right, floats with three digits, a dash for `None`."""
    rows = list(rows)
    alignments = [":--" if any(isinstance(value, str) for value in column) else "--:" for column in zip(*rows)]
    cells = [
        [
            f"{value:.3f}" if isinstance(value, float) else "–" if value is None else _escape(str(value))
            for value in row
        ]
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, alignments, *cells])


def _escape(text: str) -> str:
    """Text on one line that Markdown shows as it is."""
    return re.sub(r"[\\`*\[\]<>|~$&#]|\b_|_\b", r"\\\g<0>", " ".join(text.split()))
