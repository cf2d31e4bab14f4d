"A network of this library in a plain PyTorch loop: which half of a sequence holds the larger sum?"
import torch
from torch import nn
from deq_irnn import RootIRNN


class Reader(nn.Module):
    def __init__(self, features=1, hidden=32, classes=2, length=50):
        super().__init__()
        self.rnn = RootIRNN(features, hidden, length=length, batch_first=True)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x): return self.head(self.rnn(x)[1][-1])


def batch(n=64, T=50):
    x = torch.rand(n, T, 1) - .5                           # centred: sums of a mean would drown the rest
    return x, (x[:, :T//2].sum((1, 2)) < x[:, T//2:].sum((1, 2))).long()


def main(steps=60):
    torch.manual_seed(0)
    net = Reader()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    losses = []
    for step in range(steps):
        x, y = batch()
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.)     # states keep their size, gradients need not
        optimizer.step()
        losses.append(loss.item())
    print(f'loss {losses[0]:.3f} → {losses[-1]:.3f}; {net.rnn.last[0].solution}')
    return losses


if __name__ == '__main__': main()
