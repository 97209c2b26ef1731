"""Writes small SavedModels and one serving bundle. usage: write_models.py FOLDER (needs TensorFlow)

half_plus_two/{1,2,3}: y = x / 2 + 2, 3, 4; waiting/1: answers once folder/go exists; numbers/1: one identity per dtype, and two inputs;
shop/bundle: a serving bundle that ranks twelve items.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf

ITEMS = [f"item-{number}" for number in range(12)]
DTYPES = ("float32", "float64", "int32", "int64", "uint8", "bool", "string", "float16")


def function(shape: Any, dtype: Any, body: Any, name: Any = "x") -> Any:
    return tf.function(body, input_signature=[tf.TensorSpec(shape, dtype, name=name)])


class HalfPlus(tf.Module):
    def __init__(self, offset: Any) -> None:
        self.offset = tf.Variable(offset)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def answer(self, x: Any) -> Any:
        return {"y": 0.5 * x + self.offset}


def write_half_plus_two(folder: Any) -> None:
    for version, offset in ((1, 2.0), (2, 3.0), (3, 4.0)):
        module = HalfPlus(offset)
        tf.saved_model.save(module, f"{folder}/{version}", signatures=module.answer)


def write_waiting(folder: Any) -> None:
    def wait(folder: Any) -> Any:
        with tf.control_dependencies([tf.io.write_file(folder + "/begun", "")]):
            looks, found = tf.constant(0), tf.constant(0)
        while found == 0:
            # The pattern changes with each look: an equal one would be moved out of the loop.
            pattern = folder + tf.where(looks % 2 == 0, "/go", "/g[o]")
            found = tf.size(tf.io.matching_files(pattern))
            looks += 1
        return {"looks": looks}

    module = tf.Module()
    module.f = function([], tf.string, wait, "folder")
    tf.saved_model.save(module, f"{folder}/1", signatures=module.f)


def write_numbers(folder: Any) -> None:
    module, signatures = tf.Module(), {}
    for name in DTYPES:
        same = function(None, tf.dtypes.as_dtype(name), lambda x: {"y": tf.identity(x)})
        setattr(module, f"f_{name}", same)
        signatures[name] = same
    module.two = tf.function(
        lambda a, b: {"sum": a + tf.cast(b, tf.float32), "tag_bytes": tf.strings.as_string(b)},
        input_signature=[
            tf.TensorSpec([None], tf.float32, "a"),
            tf.TensorSpec([None], tf.int64, "b"),
        ],
    )
    signatures["two"] = module.two
    tf.saved_model.save(module, f"{folder}/1", signatures=signatures)


def write_shop(bundle: Any) -> Any:
    popularity = tf.constant([float(12 - number) for number in range(12)])

    class Shop(tf.Module):
        def __init__(self) -> None:
            self.scores = tf.Variable(popularity)
            self.ids = tf.constant(ITEMS)

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, None], tf.string, "history"),
                tf.TensorSpec([None, None], tf.int64, "steps_ago"),
            ]
        )
        def rank(self, history: Any, steps_ago: Any) -> Any:
            known = tf.cast(history[:, :, None] == self.ids, tf.float32)
            recent = 1.0 / tf.cast(tf.maximum(steps_ago, 1), tf.float32)
            scores = self.scores + 10.0 * tf.reduce_sum(known * recent[:, :, None], axis=1)
            best = tf.math.top_k(scores, k=10)
            return {"items": tf.gather(self.ids, best.indices), "scores": best.values}

    shop = Shop()
    tf.saved_model.save(shop, f"{bundle}/model", signatures=shop.rank)
    with Path(bundle, "golden.jsonl").open("w") as file:
        for user in range(30):
            history = [ITEMS[user % 12], ITEMS[(user * 5 + 1) % 12]]
            answer = shop.rank(tf.constant([history]), tf.constant([[2, 1]], tf.int64))
            record = {
                "user": f"user-{user}",
                "history": history,
                "steps_ago": [2, 1],
                "items": [item.decode() for item in answer["items"].numpy()[0]],
                "scores": [float(score) for score in answer["scores"].numpy()[0]],
            }
            file.write(json.dumps(record) + "\n")


def main(folder: Any) -> None:
    write_half_plus_two(f"{folder}/half_plus_two")
    write_waiting(f"{folder}/waiting")
    write_numbers(f"{folder}/numbers")
    write_shop(f"{folder}/shop/bundle")
    Path(folder, "broken/1").mkdir(parents=True)
    Path(folder, "broken/1/saved_model.pb").write_bytes(b"not a proto")


if __name__ == "__main__":
    main(sys.argv[1])
