"How each solve went, in TensorBoard: evaluations, worst residual, a histogram of iterations over samples."
import sys
import tempfile
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from deq_irnn import last_solution
from plain_loop import Reader, batch


def log_solves(writer, net, step):
    for name, layer in net.named_modules():
        if (sol := last_solution(layer)) is None: continue
        writer.add_scalar(f'{name}/evaluations', sol.n_eval, step)
        writer.add_scalar(f'{name}/worst residual', sol.residual.max(), step)
        writer.add_histogram(f'{name}/iterations', sol.iterations, step)


def main(folder, steps=10):
    torch.manual_seed(0)
    net = Reader()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    with SummaryWriter(folder) as writer:
        for step in range(steps):
            x, y = batch()
            loss = nn.functional.cross_entropy(net(x), y)
            optimizer.zero_grad(); loss.backward(); optimizer.step()
            writer.add_scalar('loss', loss, step)
            log_solves(writer, net, step)
    print(f'tensorboard --logdir {folder}')


if __name__ == '__main__': main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
