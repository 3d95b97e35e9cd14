"""Image classifiers, as repositories of 2015 to 2024 write them, with few channels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LeNet(nn.Module):
    """The tutorial's network: unpadded convolutions and a hard-coded view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 12)
        self.fc2 = nn.Linear(12, 10)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(-1, 16 * 5 * 5)
        x = F.relu(self.fc1(x))
        return self.fc2(x)


class AlexNet(nn.Module):
    """Local response normalisation, groups, dropout, `view(x.size(0), ...)`."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, kernel_size=11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.LocalResponseNorm(5),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(8, 8, kernel_size=5, padding=2, groups=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(8, 8, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(8 * 6 * 6, 16), nn.ReLU(inplace=True), nn.Linear(16, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = x.view(x.size(0), 8 * 6 * 6)
        result: Tensor = self.classifier(x)
        return result


class BasicBlock(nn.Module):
    def __init__(self, in_planes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False), nn.BatchNorm2d(planes)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class CifarResNet(nn.Module):
    """`F.avg_pool2d(out, 4)` for global pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = BasicBlock(4, 4)
        self.layer2 = BasicBlock(4, 8, 2)
        self.layer3 = BasicBlock(8, 8, 2)
        self.layer4 = BasicBlock(8, 16, 2)
        self.linear = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        out = F.avg_pool2d(out, 4)
        out = out.view(out.size(0), -1)
        result: Tensor = self.linear(out)
        return result


class OptionAResNet(nn.Module):
    """The shortcut of the CIFAR ResNets: a strided slice padded with channels of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.linear = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2), "constant", 0)
        out = F.relu(self.down(x) + shortcut)
        out = F.avg_pool2d(out, out.size()[3])
        result: Tensor = self.linear(out.view(out.size(0), -1))
        return result


class VGG(nn.Module):
    """Built from a list of widths, `M` for a pool."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in (4, "M", 8, "M", 8, 8, "M", 16, "M"):
            if isinstance(width, str):
                layers += [nn.MaxPool2d(kernel_size=2, stride=2)]
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width)]
                layers += [nn.ReLU(inplace=True)]
                channels = width
        layers += [nn.AvgPool2d(kernel_size=1, stride=1)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(16 * 2 * 2, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.features(x)
        out = out.reshape(out.shape[0], 16 * 2 * 2)
        result: Tensor = self.classifier(out)
        return result


class Fire(nn.Module):
    def __init__(self, inplanes: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inplanes, squeeze, kernel_size=1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, kernel_size=1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x), inplace=True)
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """Pools in ceil mode; the classifier is a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, kernel_size=7, stride=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),
            Fire(8, 2, 4),
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),
            Fire(8, 2, 4),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(p=0.5), nn.Conv2d(8, 10, 1), nn.ReLU(inplace=True), nn.AvgPool2d(7)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.classifier(self.features(x))
        return x.view(x.size(0), 10)


class DenseNet(nn.Module):
    """Every layer reads all maps before it; a transition halves them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.dense1 = nn.ModuleList(nn.Conv2d(6 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + 4 * i) for i in range(3))
        self.transition = nn.Conv2d(18, 9, 1)
        self.dense2 = nn.ModuleList(nn.Conv2d(9 + 4 * i, 4, 3, padding=1) for i in range(2))
        self.classifier = nn.Linear(17, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for norm, conv in zip(self.norms, self.dense1, strict=True):
            features.append(conv(F.relu(norm(torch.cat(features, 1)))))
        out = F.avg_pool2d(self.transition(torch.cat(features, 1)), 2)
        for conv in self.dense2:
            out = torch.cat([out, conv(F.relu(out))], dim=1)
        out = F.adaptive_avg_pool2d(F.relu(out), (1, 1))
        result: Tensor = self.classifier(torch.flatten(out, 1))
        return result


class GoogLeNet(nn.Module):
    """Four branches and, in train mode, a second classifier over 4x4 pooled maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, stride=2, padding=3)
        self.b1 = nn.Conv2d(8, 4, 1)
        self.b2 = nn.Sequential(nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 3, padding=1))
        self.b3 = nn.Sequential(nn.Conv2d(8, 2, 1), nn.Conv2d(2, 4, 5, padding=2))
        self.b4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), nn.Conv2d(8, 4, 1))
        self.factorised = nn.Sequential(
            nn.Conv2d(16, 8, (1, 7), padding=(0, 3)), nn.Conv2d(8, 8, (7, 1), padding=(3, 0))
        )
        self.aux = nn.Linear(16 * 4 * 4, 10)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1)
        x = torch.cat((self.b1(x), self.b2(x), self.b3(x), self.b4(x)), 1)
        aux = None
        if self.training:
            aux = self.aux(torch.flatten(F.adaptive_avg_pool2d(x, (4, 4)), 1))
        out = self.fc(self.factorised(x).mean(dim=(2, 3)))
        return (out, aux) if self.training else out


class MobileNet(nn.Module):
    """Depthwise separable convolutions; `nn.AvgPool2d(7)` and `view(-1, C)`."""

    def __init__(self) -> None:
        super().__init__()

        def separable(inp: int, oup: int, stride: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inp, inp, 3, stride, 1, groups=inp, bias=False),
                nn.BatchNorm2d(inp),
                nn.ReLU6(inplace=True),
                nn.Conv2d(inp, oup, 1, 1, 0, bias=False),
                nn.BatchNorm2d(oup),
                nn.ReLU6(inplace=True),
            )

        self.model = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), separable(8, 8, 1), separable(8, 16, 2), nn.AvgPool2d(7)
        )
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.model(x)
        x = x.view(-1, 16)
        result: Tensor = self.fc(x)
        return result


class WideResNet(nn.Module):
    """Pre-activation blocks with dropout inside, `nChannels` kept as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(4), nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(4, 8, 3, 2, 1, bias=False)
        self.conv3 = nn.Conv2d(8, 8, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(4, 8, 1, 2, 0, bias=False)
        self.fc = nn.Linear(8, 10)
        self.drop_rate, self.n_channels = 0.3, 8

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(out)))
        if self.drop_rate > 0:
            y = F.dropout(y, p=self.drop_rate, training=self.training)
        out = torch.add(self.shortcut(out), self.conv3(y))
        out = F.avg_pool2d(F.relu(self.bn3(out)), 8)
        out = out.view(-1, self.n_channels)
        result: Tensor = self.fc(out)
        return result


class SENet(nn.Module):
    """Grouped bottleneck, squeeze and excitation with views."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
        self.reduce = nn.Conv2d(8, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 8), nn.Sigmoid())
        self.last = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.grouped(F.relu(self.reduce(x)))
        b, c, _, _ = y.size()
        gate = self.fc(self.avg_pool(y).view(b, c)).view(b, c, 1, 1)
        out = F.relu(x + y * gate.expand_as(y))
        result: Tensor = self.last(self.avg_pool(out).squeeze(-1).squeeze(-1))
        return result


class CBAM(nn.Module):
    """Channel attention, then a 7x7 convolution over the maximum and the mean of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.mlp = nn.Sequential(nn.Flatten(), nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 8))
        self.spatial = nn.Conv2d(2, 1, kernel_size=7, stride=1, padding=3)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        avg = self.mlp(F.avg_pool2d(x, (x.size(2), x.size(3)), stride=(x.size(2), x.size(3))))
        top = self.mlp(F.max_pool2d(x, (x.size(2), x.size(3)), stride=(x.size(2), x.size(3))))
        x = x * torch.sigmoid(avg + top).unsqueeze(2).unsqueeze(3)
        pooled = torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)
        x = x * torch.sigmoid(self.spatial(pooled))
        result: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return result


class NetworkInNetwork(nn.Module):
    """1x1 convolutions, pools of both kinds, no linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Sequential(
            nn.Conv2d(3, 8, kernel_size=5, stride=1, padding=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, kernel_size=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
            nn.Dropout(0.5),
            nn.Conv2d(8, 8, kernel_size=5, stride=1, padding=2),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(kernel_size=3, stride=2, padding=1),
            nn.Conv2d(8, 10, kernel_size=1),
            nn.AvgPool2d(kernel_size=8, stride=1, padding=0),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.classifier(x)
        return x.view(x.size(0), 10)


class MultiScaleLeNet(nn.Module):
    """Traffic signs: one linear layer over the flattened maps of both stages."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 8, 5)
        self.fc1 = nn.Linear(6 * 14 * 14 + 8 * 5 * 5, 20)
        self.fc2 = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        first = F.max_pool2d(F.relu(self.conv1(x)), 2)
        second = F.max_pool2d(F.relu(self.conv2(first)), 2)
        both = torch.cat((first.view(-1, 6 * 14 * 14), second.view(-1, 8 * 5 * 5)), 1)
        return F.log_softmax(self.fc2(F.relu(self.fc1(both))), dim=1)


class ShuffleNet(nn.Module):
    """Half of the channels pass by; the shuffle is a view, a transpose and a view."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.branch = nn.Sequential(
            nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, 1, 1, groups=4), nn.Conv2d(4, 4, 1)
        )
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x1, x2 = x.chunk(2, dim=1)
        x = torch.cat((x1, self.branch(x2)), dim=1)
        batch, channels, height, width = x.size()
        x = x.view(batch, 2, channels // 2, height, width)
        x = torch.transpose(x, 1, 2).contiguous()
        x = x.view(batch, -1, height, width)
        result: Tensor = self.fc(x.mean([2, 3]))
        return result


class ConvNeXt(nn.Module):
    """Patchify stem, 7x7 depthwise, channels-last linear layers, layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, kernel_size=4, stride=4)
        self.dwconv = nn.Conv2d(8, 8, kernel_size=7, padding=3, groups=8)
        self.norm = nn.LayerNorm(8, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(8, 16), nn.Linear(16, 8)
        self.gamma = nn.Parameter(1e-6 * torch.ones(8), requires_grad=True)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        shortcut = x
        x = self.dwconv(x).permute(0, 2, 3, 1)
        x = self.pwconv2(F.gelu(self.pwconv1(self.norm(x))))
        x = (self.gamma * x).permute(0, 3, 1, 2)
        x = shortcut + x
        result: Tensor = self.head(x.mean([-2, -1]))
        return result


class Siamese(nn.Module):
    """One network for two images, whose flattened maps are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(1, 4, kernel_size=3),
            nn.ReLU(inplace=True),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, kernel_size=3),
        )
        self.fc = nn.Sequential(nn.Linear(4 * 18 * 18, 8), nn.Sigmoid())
        self.out = nn.Linear(8, 1)

    def forward_once(self, x: Tensor) -> Tensor:
        output = self.cnn(x)
        output = output.view(output.size()[0], -1)
        result: Tensor = self.fc(output)
        return result

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        distance = torch.abs(self.forward_once(input1) - self.forward_once(input2))
        result: Tensor = self.out(distance)
        return result
