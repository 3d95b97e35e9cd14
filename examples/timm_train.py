"""Training as timm's `train.py` does it, with its model, optimizer, scheduler and moving average.

The lines that make the difference to timm's script are between `# fxscale` marks: copy them into
your own `train.py`. The same settings make the second optimizer, so its groups match.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import nn

import fxscale


def main(arguments: Sequence[str] | None = None) -> tuple[nn.Module, ModelEmaV3, Any]:
    """The trained network, its moving average, and the optimizer."""
    parser = argparse.ArgumentParser(description="timm's training loop with fxscale")
    parser.add_argument("data_dir", help="a folder with train/CLASS/*")
    parser.add_argument("--model", default="resnet34")
    parser.add_argument("--num-classes", type=int, default=1000)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--pretrain-size", type=int, default=160)
    parser.add_argument("--resize-epoch", type=int, default=28)
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--opt", default="sgd", choices=["sgd", "adam", "adamw"])
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--ema-decay", type=float, default=0.9998)
    args = parser.parse_args(arguments)

    torch.manual_seed(0)
    model = timm.create_model(args.model, num_classes=args.num_classes)

    def loader(size: int) -> Any:
        dataset = timm.data.create_dataset("", root=args.data_dir, split="train")
        return timm.data.create_loader(
            dataset,
            input_size=(3, size, size),
            batch_size=args.batch_size,
            is_training=True,
            num_workers=0,
            use_prefetcher=False,
        )

    def optimizer_of(network: nn.Module) -> torch.optim.Optimizer:
        return create_optimizer_v2(network, opt=args.opt, lr=args.lr, weight_decay=1e-4)

    # fxscale
    network: nn.Module = fxscale.downscale(
        model, args.pretrain_size, target_size=args.img_size, init="fan"
    )
    images = loader(args.pretrain_size)
    # fxscale
    optimizer = optimizer_of(network)
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=args.epochs)
    average = ModelEmaV3(network, decay=args.ema_decay)
    for epoch in range(args.epochs):
        # fxscale
        if epoch == args.resize_epoch:
            images = loader(args.img_size)
            new = optimizer_of(model)
            batches = (inputs for _, (inputs, _) in zip(range(20), images, strict=False))
            fxscale.transition(
                network, model, optimizer=optimizer, new_optimizer=new, batches=batches
            )
            larger = ModelEmaV3(model, decay=args.ema_decay)
            larger.module.load_state_dict(fxscale.upscale_state(average.module))
            network, optimizer, average = model, new, larger
            fxscale.move_scheduler(scheduler, optimizer)
        # fxscale
        network.train()
        for inputs, labels in images:
            loss = F.cross_entropy(network(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update(network)
        scheduler.step(epoch + 1)
        print(
            f"epoch {epoch + 1}: loss {loss.item():.3f}, rate {optimizer.param_groups[0]['lr']:g}"
        )
    return network, average, optimizer


if __name__ == "__main__":
    main()
