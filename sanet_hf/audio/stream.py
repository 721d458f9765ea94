# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Audio files and waveforms of any length, block by block: memory does not grow with their duration."""

from sanet_hf.audio.decode import stream_audio
from sanet_hf.audio.resampling import resample_blocks


__all__ = ["resample_blocks", "stream_audio"]
