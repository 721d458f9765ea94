# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Stands in for the tests of the audio classification pipeline: makes the pipeline for `PipelineTesterMixin` and checks
what comes out of it.
"""

import numpy as np
from transformers import AudioClassificationPipeline


class AudioClassificationPipelineTests:
    """`PipelineTesterMixin` makes one for each model, feature extractor and dtype."""

    def get_test_pipeline(
        self, model, tokenizer=None, image_processor=None, feature_extractor=None, processor=None, dtype="float32"
    ):
        """The pipeline, and clips shorter and longer than the model takes, and at another sampling rate."""
        pipeline = AudioClassificationPipeline(
            model=model,
            tokenizer=tokenizer,
            image_processor=image_processor,
            feature_extractor=feature_extractor,
            processor=processor,
            dtype=dtype,
        )
        rng = np.random.default_rng(0)
        examples = [rng.normal(size=num_samples).astype(np.float32) for num_samples in (500, 3000)]
        examples.append({"raw": examples[1], "sampling_rate": 2 * feature_extractor.sampling_rate})
        return pipeline, examples

    def run_pipeline_test(self, pipeline, examples):
        labels = set(pipeline.model.config.label2id)
        for example in examples:
            predictions = pipeline(example)
            assert {prediction["label"] for prediction in predictions} == labels
            scores = [prediction["score"] for prediction in predictions]
            assert scores == sorted(scores, reverse=True)
            np.testing.assert_allclose(sum(scores), 1, atol=1e-2)

            assert pipeline(example, top_k=1) == predictions[:1]
        assert [len(predictions) for predictions in pipeline(examples)] == [len(labels)] * len(examples)
