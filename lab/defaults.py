"""Constants that every experiment has and few change.

A script imports them into its first cell, the shell overrides them.
"""

# the frozen base's: "auto" (bf16 where the device computes it faster, else fp32), "float32", "bfloat16",
# or "4bit" (CUDA)
DTYPE = "auto"
# share of the last layers that get adapters; 1.0 is all of them
LAYERS = 0.5
# saves memory: activations are computed again in the backward pass
GRADIENT_CHECKPOINTING = False
# examples that go through the model at a time, as memory allows; 0 is all.
# The gradient is that of the whole batch.
MICRO_BATCH_SIZE = 0
# how attention is computed: "sdpa", "eager", "flash_attention_2"
ATTENTION = "sdpa"
# a tracker that gets the numbers of train.jsonl and eval.json as well: "trackio", "wandb" or "tensorboard"
REPORT_TO = ""
