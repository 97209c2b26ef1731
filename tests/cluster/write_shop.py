"""Write what the tests of the chart stage. usage: python -m tests.cluster.write_shop FOLDER

shop/: a bundle of twelve items with golden requests; damaged/model: the same, whose answers are lost in
a damaged asset (DATA_LOSS, as when a file of a bundle was cut): it loads, and no request is answered.
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf

from tests.integration.serving.write_models import ITEMS, write_shop


def write_damaged(model: str) -> None:
    class Damaged(tf.Module):
        @tf.function(
            input_signature=[
                tf.TensorSpec([None, None], tf.string, "history"),
                tf.TensorSpec([None, None], tf.int64, "steps_ago"),
            ]
        )
        def rank(self, history: Any, steps_ago: Any) -> Any:
            packed = tf.strings.reduce_join(history, axis=1)  # no ZLIB stream: inflating fails
            items = tf.repeat(tf.io.decode_compressed(packed, "ZLIB")[:, None], len(ITEMS), axis=1)
            scores = tf.cast(tf.strings.length(items), tf.float32) + tf.cast(
                steps_ago[0, 0], tf.float32
            )
            return {"items": items, "scores": scores}

    damaged = Damaged()
    tf.saved_model.save(damaged, model, signatures=damaged.rank)


if __name__ == "__main__":
    write_shop(f"{sys.argv[1]}/shop")
    write_damaged(f"{sys.argv[1]}/damaged/model")
