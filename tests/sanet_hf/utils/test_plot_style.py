# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
from sanet_hf.utils.plot_style import COLORS, OTHER_COLOR, label_colors


def test_few_labels_have_the_same_colours_in_all_pictures():
    labels = ["owl", "cat", "dog"]
    expected = dict(zip(labels, COLORS))
    assert label_colors(labels, ["dog", "owl"]) == label_colors(labels, ["cat"]) == expected


def test_only_the_first_of_many_labels_are_coloured():
    labels = [f"bird {index}" for index in range(len(COLORS) + 3)]
    colors = label_colors(labels, labels[:2:-1])
    assert list(colors) == labels
    assert colors[labels[-1]] == COLORS[0] and colors[labels[3]] == COLORS[len(COLORS) - 1]
    assert [colors[label] for label in labels[:3]] == 3 * [OTHER_COLOR]
