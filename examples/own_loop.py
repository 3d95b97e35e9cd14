"""A plain PyTorch loop: four lines more than without fxscale, marked 1 to 4.

Momentum goes through the transition with the weights, a scheduler goes on where it stands, and a
GradScaler belongs to no optimizer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.training import SmallResNet, noisy_digits


def train(
    *, epochs: int = 6, resize_after: int = 3, images: int = 1000, batch_size: int = 50
) -> tuple[nn.Module, list[float]]:
    """The trained network, and the mean loss of every epoch."""
    torch.manual_seed(0)
    digits = noisy_digits(40)
    pictures, labels = digits.train_images[:images], digits.train_labels[:images]
    model = SmallResNet(1, 10, widths=(8, 16))
    network: nn.Module = fxscale.downscale(model, 28, target_size=40)  # 1
    optimizer: torch.optim.Optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    losses = []
    for epoch in range(epochs):
        size = 28 if epoch < resize_after else 40
        if epoch == resize_after:
            batches = (resized(part, size) for part in pictures.split(batch_size)[:20])
            report = fxscale.transition(network, model, optimizer=optimizer, batches=batches)  # 2
            assert report.optimizer is not None
            network, optimizer = model, report.optimizer  # 3
            fxscale.move_scheduler(scheduler, optimizer)  # 4
        total = 0.0
        for part in torch.randperm(images).split(batch_size):
            loss = F.cross_entropy(network(resized(pictures[part], size)), labels[part])
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            total += loss.item() * len(part)
        scheduler.step()
        losses.append(total / images)
        rate = scheduler.get_last_lr()[0]
        print(f"epoch {epoch + 1}: {size} px, loss {losses[-1]:.3f}, next learning rate {rate:.4f}")
    return network, losses


def resized(images: Tensor, size: int) -> Tensor:
    """`(N, C, H, W)` to `(N, C, size, size)`."""
    return F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)


if __name__ == "__main__":
    train()
