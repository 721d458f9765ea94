# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Replace the tests of the audio classification pipeline: make the pipeline for `PipelineTesterMixin` and check its
output.
"""

import numpy as np
from transformers import AudioClassificationPipeline


class AudioClassificationPipelineTests:
    """`PipelineTesterMixin` creates one instance per model, feature extractor and dtype."""

    def get_test_pipeline(
        self, model, tokenizer=None, image_processor=None, feature_extractor=None, processor=None, dtype="float32"
    ):
        """
        Return the pipeline and three clips: shorter and longer than the model's maximum, and at another sampling rate.
        """
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
