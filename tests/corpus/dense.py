"""Networks whose outputs are maps: segmentation, restoration, detection, generation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def double_conv(in_channels: int, out_channels: int, padding: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=padding),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=padding),
        nn.ReLU(inplace=True),
    )


class CroppingUNet(nn.Module):
    """The original: unpadded convolutions, skips cropped to the map that they meet."""

    def __init__(self) -> None:
        super().__init__()
        self.down = double_conv(1, 4, padding=0)
        self.bottom = double_conv(4, 8, padding=0)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.join = double_conv(8, 4, padding=0)
        self.last = nn.Conv2d(4, 2, 1)

    def center_crop(self, layer: Tensor, target_size: torch.Size) -> Tensor:
        _, _, height, width = layer.size()
        diff_y = (height - target_size[0]) // 2
        diff_x = (width - target_size[1]) // 2
        return layer[:, :, diff_y : (diff_y + target_size[0]), diff_x : (diff_x + target_size[1])]

    def forward(self, x: Tensor) -> Tensor:
        bridge = self.down(x)
        up = self.up(self.bottom(F.max_pool2d(bridge, 2)))
        crop = self.center_crop(bridge, up.shape[2:])
        result: Tensor = self.last(self.join(torch.cat([up, crop], 1)))
        return result


class PaddingUNet(nn.Module):
    """Bilinear up-sampling, the map padded to the size of the skip."""

    def __init__(self) -> None:
        super().__init__()
        self.inc, self.down = double_conv(3, 4), double_conv(4, 8)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.conv = double_conv(12, 4)
        self.outc = nn.Conv2d(4, 2, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.inc(x)
        x2 = self.up(self.down(nn.functional.max_pool2d(x1, 2)))
        diff_y = x1.size()[2] - x2.size()[2]
        diff_x = x1.size()[3] - x2.size()[3]
        x2 = F.pad(x2, [diff_x // 2, diff_x - diff_x // 2, diff_y // 2, diff_y - diff_y // 2])
        result: Tensor = self.outc(self.conv(torch.cat([x2, x1], dim=1)))
        return result


class SRCNN(nn.Module):
    """9-1-5, as in the paper."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, kernel_size=9, padding=9 // 2)
        self.conv2 = nn.Conv2d(8, 4, kernel_size=5, padding=5 // 2)
        self.conv3 = nn.Conv2d(4, 1, kernel_size=5, padding=5 // 2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv3(self.relu(self.conv2(self.relu(self.conv1(x)))))
        return result


class DnCNN(nn.Module):
    """Predicts the noise and subtracts it."""

    def __init__(self, depth: int = 5) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            layers += [nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, eps=1e-4)]
            layers += [nn.ReLU(inplace=True)]
        layers.append(nn.Conv2d(4, 1, 3, padding=1))
        self.dncnn = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        out: Tensor = self.dncnn(x)
        return y - out


class ESPCN(nn.Module):
    """Three times the resolution by pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.Tanh())
        self.last = nn.Sequential(nn.Conv2d(8, 9, 3, padding=1), nn.PixelShuffle(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(self.last(self.first(x)), 0.0, 1.0)


class FCN(nn.Module):
    """Scores of two strides summed, enlarged to the size of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.pool4 = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2, ceil_mode=True))
        self.pool5 = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.MaxPool2d(2, ceil_mode=True))
        self.fc6 = nn.Conv2d(8, 8, 7, padding=3)
        self.score, self.score4 = nn.Conv2d(8, 5, 1), nn.Conv2d(4, 5, 1)
        self.upscore = nn.ConvTranspose2d(5, 5, 4, stride=2, padding=1, bias=False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        size = x.shape[-2:]
        pool4 = self.pool4(x)
        score = self.upscore(self.score(F.dropout2d(F.relu(self.fc6(self.pool5(pool4))))))
        score = score + self.score4(pool4)
        return {"out": F.interpolate(score, size=size, mode="bilinear", align_corners=False)}


class ASPP(nn.Module):
    """Dilated convolutions side by side, with the pooled image enlarged among them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.convs = nn.ModuleList(
            [nn.Conv2d(8, 4, 1)]
            + [nn.Conv2d(8, 4, 3, padding=rate, dilation=rate) for rate in (2, 3)]
        )
        self.pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.ReLU())
        self.project = nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        res = [conv(y) for conv in self.convs]
        res.append(F.interpolate(self.pooling(y), size=y.shape[-2:], mode="bilinear"))
        out = self.project(torch.cat(res, dim=1))
        return F.interpolate(out, size=x.shape[2:], mode="bilinear", align_corners=True)


class PSPNet(nn.Module):
    """Adaptive pools to 1, 2, 3 and 6 pixels, enlarged again."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 8, 7, stride=2, padding=3)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(output_size=(n, n)), nn.Conv2d(8, 2, 1, bias=False))
            for n in (1, 2, 3, 6)
        )
        self.final = nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        feats = self.backbone(x)
        h, w = feats.size(2), feats.size(3)
        priors = [F.interpolate(s(feats), size=(h, w), mode="bilinear") for s in self.stages]
        return F.log_softmax(self.final(torch.cat([*priors, feats], 1)), dim=1)


class YOLO(nn.Module):
    """Leaky convolutions, two detection scales, anchors split off by a view."""

    def __init__(self) -> None:
        super().__init__()
        self.num_anchors, self.num_classes = 3, 2
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, 1), nn.LeakyReLU(0.1), nn.Conv2d(4, 8, 3, 2, 1)
        )
        self.deep = nn.Conv2d(8, 8, 3, 2, 1)
        self.lateral = nn.Conv2d(8, 8, 1)
        self.heads = nn.ModuleList(nn.Conv2d(c, 3 * 7, 1) for c in (16, 8))

    def predict(self, x: Tensor) -> Tensor:
        batch, grid_y, grid_x = x.size(0), x.size(2), x.size(3)
        x = x.view(batch, self.num_anchors, self.num_classes + 5, grid_y, grid_x)
        x = x.permute(0, 1, 3, 4, 2).contiguous()
        return torch.cat((torch.sigmoid(x[..., 0:2]), x[..., 2:4], torch.sigmoid(x[..., 4:])), -1)

    def forward(self, x: Tensor) -> list[Tensor]:
        route = self.backbone(x)
        deep = F.leaky_relu(self.deep(route), 0.1)
        up = F.interpolate(self.lateral(deep), scale_factor=2, mode="nearest")
        maps = [torch.cat([up, route], 1), deep]
        return [self.predict(head(m)) for head, m in zip(self.heads, maps, strict=True)]


class RetinaNet(nn.Module):
    """A feature pyramid whose levels go through one and the same head."""

    def __init__(self) -> None:
        super().__init__()
        self.c3 = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.c4 = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.c5 = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.lateral = nn.ModuleList(nn.Conv2d(8, 4, 1) for _ in range(3))
        self.output = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.head = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2 * 3, 3, padding=1)
        )

    def _upsample_add(self, x: Tensor, y: Tensor) -> Tensor:
        _, _, h, w = y.size()
        return F.interpolate(x, size=(h, w), mode="nearest") + y

    def forward(self, x: Tensor) -> list[Tensor]:
        c3 = F.relu(self.c3(x))
        c4 = F.relu(self.c4(c3))
        c5 = F.relu(self.c5(c4))
        p5 = self.lateral[2](c5)
        p4 = self._upsample_add(p5, self.lateral[1](c4))
        p3 = self._upsample_add(p4, self.lateral[0](c3))
        levels = [conv(p) for conv, p in zip(self.output, (p3, p4, p5), strict=True)]
        outputs = []
        for level in levels:
            scores = self.head(level).permute(0, 2, 3, 1)
            outputs.append(scores.contiguous().view(x.size(0), -1, 3))
        return outputs


class HRNet(nn.Module):
    """Two resolutions that exchange what they know."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.split = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.high, self.low = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.Sequential(nn.Conv2d(8, 4, 1), nn.Upsample(scale_factor=2, mode="nearest"))
        self.down = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.last = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = self.stem(x)
        low = self.split(high)
        high, low = F.relu(self.high(high)), F.relu(self.low(low))
        high, low = F.relu(high + self.up(low)), F.relu(low + self.down(high))
        low = F.interpolate(low, size=(high.size(2), high.size(3)), mode="bilinear")
        result: Tensor = self.last(torch.cat([high, low], 1))
        return result


class CoordConv(nn.Module):
    """Coordinates appended as channels, made for the size of the map at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3 + 2, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.size()
        ys = torch.linspace(-1, 1, height).view(1, 1, height, 1).expand(batch, 1, height, width)
        xs = torch.linspace(-1, 1, width).view(1, 1, 1, width).expand(batch, 1, height, width)
        out: Tensor = self.last(F.relu(self.conv(torch.cat([x, xs, ys], 1))))
        return out


class Pix2Pix(nn.Module):
    """The generator: 4x4 convolutions of stride 2 down and up again, with skips."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(3, 4, 4, stride=2, padding=1)
        self.down2 = nn.Sequential(
            nn.LeakyReLU(0.2, True), nn.Conv2d(4, 8, 4, 2, 1), nn.BatchNorm2d(8)
        )
        self.down3 = nn.Sequential(nn.LeakyReLU(0.2, True), nn.Conv2d(8, 8, 4, 2, 1))
        self.up3 = nn.Sequential(
            nn.ReLU(True), nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.Dropout(0.5)
        )
        self.up2 = nn.Sequential(nn.ReLU(True), nn.ConvTranspose2d(16, 4, 4, 2, 1))
        self.up1 = nn.Sequential(nn.ReLU(True), nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        d1 = self.down1(x)
        d2 = self.down2(d1)
        u3 = self.up3(self.down3(d2))
        u2 = self.up2(torch.cat([d2, u3], 1))
        result: Tensor = self.up1(torch.cat([d1, u2], 1))
        return result


class DCGANDiscriminator(nn.Module):
    """Strided 4x4 convolutions; the last one covers the whole map."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(3, 4, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(4, 8, 4, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(8, 8, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(8, 1, 4, 1, 0, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.main(x)
        return result.view(-1, 1).squeeze(1)


class CycleGAN(nn.Module):
    """Reflection pads, instance norms, transposed convolutions with output padding."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(3, 4, 7), nn.InstanceNorm2d(4), nn.ReLU(True)
        )
        self.down = nn.Sequential(
            nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.InstanceNorm2d(8), nn.ReLU(True)
        )
        self.block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(8, 8, 3),
            nn.InstanceNorm2d(8),
            nn.ReLU(True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(8, 8, 3),
            nn.InstanceNorm2d(8),
        )
        self.up = nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1)
        self.tail = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(4, 3, 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(self.head(x))
        y = y + self.block(y)
        result: Tensor = self.tail(F.relu(self.up(y)))
        return result


class PatchGAN(nn.Module):
    """A map of verdicts."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(6, 4, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, True),
            nn.Conv2d(4, 8, 4, stride=2, padding=1),
            nn.InstanceNorm2d(8),
            nn.LeakyReLU(0.2, True),
            nn.ZeroPad2d((1, 0, 1, 0)),
            nn.Conv2d(8, 1, 4, padding=1, bias=False),
        )

    def forward(self, img_a: Tensor, img_b: Tensor) -> Tensor:
        result: Tensor = self.model(torch.cat((img_a, img_b), 1))
        return result
