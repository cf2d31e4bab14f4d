"The same in Lightning: the solver's evaluations are logged beside the loss."
import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from plain_loop import Reader, batch


class Task(L.LightningModule):
    def __init__(self, lr=1e-2):
        super().__init__()
        self.net, self.lr, self.losses = Reader(), lr, []

    def training_step(self, rows, index):
        x, y = rows
        loss = nn.functional.cross_entropy(self.net(x), y)
        evaluations = float(self.net.rnn.last[0].solution.n_eval)
        self.log_dict({'loss': loss, 'evaluations': evaluations}, prog_bar=True)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self): return torch.optim.AdamW(self.parameters(), self.lr)


def main(batches=40):
    L.seed_everything(0, verbose=False)
    task = Task()
    loader = DataLoader(TensorDataset(*batch(64*batches)), batch_size=64, shuffle=True)
    trainer = L.Trainer(max_epochs=1, accelerator='auto', devices=1, gradient_clip_val=1., logger=False,
                        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(task, loader)
    print(f'loss {task.losses[0]:.3f} → {task.losses[-1]:.3f}')
    return task.losses


if __name__ == '__main__': main()
