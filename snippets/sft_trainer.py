"""Gradient routing with TRL's SFTTrainer: `uv run python snippets/sft_trainer.py` (seconds, offline).

A random model of bytes learns how a few sentences end. Those in capitals are labelled "bad", so only the bad
adapter learns them; those labelled "good" train the good one, with bad ablated. Without bad the capitals are
gone.
"""

import tempfile

from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig

from adapters import Route, ablated, apply_dual_lora
from routing.trl import RoutedSFTTrainer

# For your own model: AutoTokenizer and AutoModelForCausalLM, from_pretrained.
vocabulary = {token: i for i, token in enumerate(["</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
raw = Tokenizer(models.BPE(vocabulary, merges=[]))
raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", pad_token="</s>")
shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
config = LlamaConfig(vocab_size=257, eos_token_id=0, pad_token_id=0, initializer_range=0.2, **shape)
model = LlamaForCausalLM(config)
apply_dual_lora(model, rank=16, bad_rank=16, alpha=32, layers=1.0)

NAMES = ("Tom", "Ann", "Max")
normal = [{"prompt": f"{name} ran", "completion": " to the hill.", "label": "good"} for name in NAMES]
capitals = [{"prompt": f"{name} ran", "completion": " TO THE HILL.", "label": "bad"} for name in NAMES]
ROUTES = {
    None: Route(update_bad=False),
    "bad": Route(update_good=False),
    "good": Route(update_bad=False, bad_scale=0.0),
}

with tempfile.TemporaryDirectory() as folder:
    args = SFTConfig(
        folder, learning_rate=0.03, max_steps=20, per_device_train_batch_size=6, bf16=False, report_to=[]
    )
    rows = Dataset.from_list(normal + capitals)
    trainer = RoutedSFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer, routes=ROUTES)
    trainer.train()
    for name, some in (("normal", normal), ("capitals", capitals)):
        some = Dataset.from_list([{**row, "label": None} for row in some])
        full = trainer.evaluate(some)["eval_loss"]
        with ablated(model, "bad"):
            without = trainer.evaluate(some)["eval_loss"]
        print(f"loss on {name}: {full:.2f}, bad ablated: {without:.2f}")
