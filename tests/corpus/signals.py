"""One and three dimensions, and networks with a recurrent tail."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WaveNet(nn.Module):
    """Causal dilated convolutions of kernel 2, gates, skips cut to the shortest."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Conv1d(1, 4, 1)
        self.filters = nn.ModuleList(nn.Conv1d(4, 4, 2, dilation=2**i) for i in range(3))
        self.gates = nn.ModuleList(nn.Conv1d(4, 4, 2, dilation=2**i) for i in range(3))
        self.residuals = nn.ModuleList(nn.Conv1d(4, 4, 1) for _ in range(3))
        self.skips = nn.ModuleList(nn.Conv1d(4, 8, 1) for _ in range(3))
        self.end = nn.Conv1d(8, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        skip = None
        for filter_, gate, residual, to_skip in zip(
            self.filters, self.gates, self.residuals, self.skips, strict=True
        ):
            y = torch.tanh(filter_(x)) * torch.sigmoid(gate(x))
            s = to_skip(y)
            if skip is not None:
                skip = skip[:, :, -s.size(2) :]
            skip = s if skip is None else skip + s
            x = residual(y) + x[:, :, -y.size(2) :]
        assert skip is not None
        result: Tensor = self.end(F.relu(skip))
        return result


class M5(nn.Module):
    """Raw audio: a kernel of 80, pools of 4, a pool over what is left."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(1, 8, kernel_size=80, stride=4)
        self.bn1 = nn.BatchNorm1d(8)
        self.pool1 = nn.MaxPool1d(4)
        self.conv2 = nn.Conv1d(8, 8, kernel_size=3)
        self.bn2 = nn.BatchNorm1d(8)
        self.fc1 = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(F.relu(self.bn1(self.conv1(x))))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.avg_pool1d(x, x.shape[-1])
        x = x.permute(0, 2, 1)
        return F.log_softmax(self.fc1(x), dim=2)


class Chomp1d(nn.Module):
    def __init__(self, chomp_size: int) -> None:
        super().__init__()
        self.chomp_size = chomp_size

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : -self.chomp_size].contiguous()


class TCN(nn.Module):
    """Padded on both sides, then chomped: causal."""

    def __init__(self) -> None:
        super().__init__()
        blocks = []
        for i, channels in enumerate((2, 6)):
            pad = 2 * 2**i
            blocks += [nn.Conv1d(channels, 6, 3, padding=pad, dilation=2**i), Chomp1d(pad)]
            blocks += [nn.ReLU(), nn.Dropout(0.2)]
        self.network = nn.Sequential(*blocks)
        self.downsample = nn.Conv1d(2, 6, 1)
        self.linear = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.network(x) + self.downsample(x))
        result: Tensor = self.linear(y[:, :, -1])
        return result


class CausalPad(nn.Module):
    """`F.pad` on the left, and a dense net of four rates."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(2 + 4 * i, 4, 3, dilation=2**i) for i in range(3))
        self.head = nn.Conv1d(14, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        for i, conv in enumerate(self.convs):
            x = torch.cat([x, torch.relu(conv(F.pad(x, (2 * 2**i, 0))))], 1)
        result: Tensor = self.head(x)
        return result


class EEGNet(nn.Module):
    """Long and flat kernels, a depthwise one over all electrodes, a flattened tail."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, (1, 32), padding=(0, 16), bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 8, (16, 1), groups=4, bias=False)
        self.pool = nn.AvgPool2d((1, 4))
        self.separable = nn.Conv2d(8, 8, (1, 16), padding=(0, 8), groups=8, bias=False)
        self.point = nn.Conv2d(8, 8, 1, bias=False)
        self.classify = nn.Linear(8 * 1 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x))
        x = F.dropout(self.pool(F.elu(self.depthwise(x))), 0.25, training=self.training)
        x = F.avg_pool2d(F.elu(self.point(self.separable(x))), (1, 8))
        x = x.view(x.shape[0], -1)
        result: Tensor = self.classify(x)
        return result


class SpectrogramNet(nn.Module):
    """A long and narrow image; pools that shrink one axis alone; the mean over time, the maximum
    over frequency."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, (7, 3), padding=(3, 1))
        self.conv2 = nn.Conv2d(4, 8, (3, 5), stride=(1, 2), padding=(1, 2))
        self.fc = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), (1, 2))
        x = F.relu(self.conv2(x))
        x = torch.mean(x, dim=3)
        (x, _) = torch.max(x, dim=2)
        result: Tensor = self.fc(x)
        return result


class C3D(nn.Module):
    """3x3x3 kernels, pools that spare time at first, a hard-coded view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 4, kernel_size=(3, 3, 3), padding=(1, 1, 1))
        self.pool1 = nn.MaxPool3d(kernel_size=(1, 2, 2), stride=(1, 2, 2))
        self.conv2 = nn.Conv3d(4, 4, kernel_size=(3, 3, 3), padding=(1, 1, 1))
        self.pool2 = nn.MaxPool3d(kernel_size=(2, 2, 2), stride=(2, 2, 2))
        self.pool5 = nn.MaxPool3d((2, 2, 2), stride=(2, 2, 2), padding=(0, 1, 1))
        self.fc6 = nn.Linear(4 * 2 * 3 * 3, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool1(F.relu(self.conv1(x)))
        h = self.pool5(self.pool2(F.relu(self.conv2(h))))
        h = h.view(-1, 4 * 2 * 3 * 3)
        result: Tensor = self.fc6(h)
        return result


class R2Plus1D(nn.Module):
    """Convolutions over space, then over time."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.Conv3d(3, 6, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False)
        self.bn = nn.BatchNorm3d(6)
        self.temporal = nn.Conv3d(6, 4, (3, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0), bias=False)
        self.body = nn.Conv3d(4, 4, (1, 3, 3), padding=(0, 1, 1))
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.temporal(F.relu(self.bn(self.spatial(x))))
        x = F.relu(x + self.body(x))
        x = F.adaptive_avg_pool3d(x, 1)
        result: Tensor = self.fc(x.view(-1, 4))
        return result


class VNet(nn.Module):
    """Volumes: strided convolutions down, transposed ones up, PReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Conv3d(1, 2, 5, padding=2)
        self.down = nn.Conv3d(2, 4, 2, stride=2)
        self.conv = nn.Sequential(nn.Conv3d(4, 4, 5, padding=2), nn.PReLU(4))
        self.up = nn.ConvTranspose3d(4, 2, 2, stride=2)
        self.out = nn.Conv3d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.inp(x) + torch.cat([x, x], 1)
        down = self.down(first)
        up = self.up(self.conv(down) + down)
        return F.softmax(self.out(torch.cat((up, first), 1)), dim=1)


class CRNN(nn.Module):
    """Text lines: the height is pooled away, the width becomes time for an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 4, 3, 1, 1),
            nn.ReLU(True),
            nn.MaxPool2d(2, 2),
            nn.Conv2d(4, 8, 3, 1, 1),
            nn.BatchNorm2d(8),
            nn.ReLU(True),
            nn.MaxPool2d((2, 2), (2, 1), (0, 1)),
            nn.Conv2d(8, 8, 3, 1, 1),
        )
        self.rnn = nn.LSTM(8, 4, bidirectional=True)
        self.embedding = nn.Linear(8, 7)

    def forward(self, x: Tensor) -> Tensor:
        conv = self.cnn(x)
        conv = F.max_pool2d(conv, (4, 1))
        _, _, h, _ = conv.size()
        assert h == 1, "the height of conv must be 1"
        conv = conv.squeeze(2).permute(2, 0, 1)
        recurrent, _ = self.rnn(conv)
        t, b, features = recurrent.size()
        output = self.embedding(recurrent.view(t * b, features))
        result: Tensor = output.view(t, b, -1)
        return result


class DeepSpeech(nn.Module):
    """Spectrograms: channels and frequencies together are the features of a GRU over time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, (5, 3), stride=(2, 1), padding=(2, 1))
        self.bn = nn.BatchNorm2d(4)
        self.project = nn.Linear(4 * 8, 6)
        self.rnn = nn.GRU(6, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardtanh(self.bn(self.conv(x)), 0, 20)
        sizes = x.size()
        x = x.view(sizes[0], sizes[1] * sizes[2], sizes[3]).transpose(1, 2)
        result: Tensor = self.rnn(self.project(x))[0]
        return result
