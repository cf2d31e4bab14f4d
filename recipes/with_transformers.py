"The same by Hugging Face's Trainer, which brings accelerate: a model that returns a dict with its loss."
import tempfile
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from plain_loop import Reader, batch


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Reader()

    def forward(self, x, labels):
        logits = self.net(x)
        return {'loss': nn.functional.cross_entropy(logits, labels), 'logits': logits}


class Sequences(Dataset):
    def __init__(self, n): self.x, self.y = batch(n)
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return {'x': self.x[i], 'labels': self.y[i]}


def main(batches=40):
    with tempfile.TemporaryDirectory() as folder:
        options = TrainingArguments(
            folder, num_train_epochs=1, per_device_train_batch_size=64, learning_rate=1e-2, max_grad_norm=1.,
            lr_scheduler_type='constant', seed=0, logging_steps=1, report_to=[], save_strategy='no',
            disable_tqdm=True)
        torch.manual_seed(0)
        trainer = Trainer(Model(), options, train_dataset=Sequences(64*batches))
        trainer.train()
        losses = [row['loss'] for row in trainer.state.log_history if 'loss' in row]
    print(f'loss {losses[0]} → {losses[-1]}')
    return [float(loss) for loss in losses]


if __name__ == '__main__': main()
