"""A learned mixture in Hugging Face's Trainer: which source its batches come from, paid by a small sample.

Needs transformers and accelerate: pip install 'gar-env[huggingface]'. Usage: python examples/huggingface_trainer.py
"""

import os
import tempfile

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, StackDataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from agents import LearnedMixture
from agents.studies.mixture.sources import UNWANTED, mixture_dataset

data = mixture_dataset("")  # five packages of the standard library, noise, and one text again and again
wanted = torch.tensor([data.groups.index(name) for name in data.groups if name not in UNWANTED])
sample = torch.isin(data.group_train, wanted).nonzero().flatten()[::8]  # an eighth of what is wanted, not trained on
left = torch.ones(len(data.x_train), dtype=torch.bool).index_fill(0, sample, False)
rows = {name: ((data.group_train == i) & left).nonzero().flatten() for i, name in enumerate(data.groups)}
mixture = LearnedMixture(rows, batch_size=16)  # its state_dict() belongs into a checkpoint of one's own


def losses(output, labels):
    return F.cross_entropy(output.logits.float().transpose(1, 2), labels, reduction="none").mean(1)  # nats per byte


class MixtureTrainer(Trainer):
    def get_train_dataloader(self):
        return DataLoader(self.train_dataset, batch_sampler=mixture)

    def training_step(self, model, inputs, num_items_in_batch=None):
        model.train()
        x, y = inputs["input_ids"].to(model.device), inputs["labels"].to(model.device)
        share = 1 / self.current_gradient_accumulation_steps
        with self.accelerator.autocast():
            return share * mixture.record(model, x, lambda output: losses(output, y), loss_scale=share).mean()


class Pay(TrainerCallback):
    def on_step_end(self, args, state, control, model=None, **kwargs):  # the optimizer has moved
        some = sample[torch.randint(len(sample), (4,))]
        x, y = data.x_train[some].to(model.device), data.y_train[some].to(model.device)
        mixture.pay(lambda: losses(model(x), y).mean())


small = {"n_embd": 64, "n_layer": 1, "n_head": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
model = GPT2LMHeadModel(GPT2Config(vocab_size=256, n_positions=96, bos_token_id=0, eos_token_id=0, **small))
with tempfile.TemporaryDirectory() as folder:
    steps, quiet = int(os.environ.get("STEPS", 100)), {"report_to": "none", "save_strategy": "no"}
    arguments = TrainingArguments(folder, max_steps=steps, learning_rate=3e-3, logging_steps=25, **quiet)
    trained_on = StackDataset(input_ids=data.x_train, labels=data.y_train)
    MixtureTrainer(model, arguments, train_dataset=trained_on, callbacks=[Pay()]).train()
for name, chance in mixture.probabilities.items():
    print(f"{name:<20} {chance:6.1%}{'  (not wanted)' if name in UNWANTED else ''}")
