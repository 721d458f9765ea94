# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Names of the metrics, apart from their computation, whose libraries take long to import."""

from sanet_hf.errors import UsageError


TOP_K = 3
# Title and meaning of each metric, in the order of display.
METRICS = {
    "mAP": ("mAP", "mean over classes of the average precision; 1 is perfect"),
    "accuracy": ("Accuracy", "fraction of the clips that are classified correctly"),
    "macro_f1": ("Macro F1", "F1 averaged over classes; rare and frequent classes count the same"),
    "top_3_accuracy": ("Top-3 accuracy", "fraction of the clips whose class is among the three most probable"),
    "auroc": ("AUROC", "how well each class is separated from the others; 0.5 is chance, 1 is perfect"),
    "ece": ("ECE", "expected calibration error: mean distance between probability and accuracy; 0 is perfect"),
}
# Names that the Hub has for the metrics in its index.
METRIC_TYPES = {"mAP": "mAP", "accuracy": "accuracy", "macro_f1": "f1"}
# Those that can choose the best epoch.
CHOOSING_METRICS = ("loss", *METRICS)


def check_metric(name: str, is_multi_label: bool, num_classes: int) -> None:
    """
    Raises:
        UsageError: There is no such metric for these classes. The message names those that there are.
    """
    missing = "top_3_accuracy" if is_multi_label or num_classes <= TOP_K else None, None if is_multi_label else "mAP"
    metrics = [metric for metric in CHOOSING_METRICS if metric not in missing]
    if name.removeprefix("eval_") not in metrics:
        kind = "several classes a clip" if is_multi_label else f"one of {num_classes} classes a clip"
        raise UsageError(
            f"--metric_for_best_model {name}: no metric where there is {kind}. Choose one of: {', '.join(metrics)}."
        )
