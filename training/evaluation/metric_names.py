# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Names of the metrics. They are separate from the computation, whose libraries are slow to import."""

TOP_K = 3
# Title and meaning of each metric, in the order of display.
METRICS = {
    "mAP": ("mAP", "mean over classes of the average precision; 1 is perfect"),
    "accuracy": ("Accuracy", "fraction of the clips that are classified correctly"),
    "macro_f1": ("Macro F1", "F1 averaged over classes; rare and frequent classes count the same"),
    "top_3_accuracy": ("Top-3 accuracy", "fraction of the clips whose class is among the three most probable"),
    "auroc": ("AUROC", "separation of each class from the others; 0.5 is chance, 1 is perfect"),
    "ece": ("ECE", "expected calibration error: mean distance between probability and accuracy; 0 is perfect"),
}
# Names of the metrics in the index of the Hub.
METRIC_TYPES = {"mAP": "mAP", "accuracy": "accuracy", "macro_f1": "f1"}
# Metrics that can select the best epoch.
CHOOSING_METRICS = ("loss", *METRICS)
# Metrics before and after calibration.
CALIBRATION_METRICS = ("ece_uncalibrated", "ece", "log_loss_uncalibrated", "log_loss")
