"""Networks that make images of vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class VAE(nn.Module):
    """Mean and variance from the flattened map, and a map of a draw of them."""

    def __init__(self, latent_dim: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.LeakyReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.LeakyReLU(),
        )
        self.fc_mu = nn.Linear(16 * 8 * 8, latent_dim)
        self.fc_var = nn.Linear(16 * 8 * 8, latent_dim)
        self.decoder_input = nn.Linear(latent_dim, 16 * 8 * 8)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1, output_padding=1),
            nn.BatchNorm2d(8),
            nn.LeakyReLU(),
            nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1),
            nn.BatchNorm2d(8),
            nn.LeakyReLU(),
            nn.Conv2d(8, 3, 3, padding=1),
            nn.Tanh(),
        )

    def reparameterize(self, mu: Tensor, log_var: Tensor) -> Tensor:
        std = torch.exp(0.5 * log_var)
        return torch.randn_like(std) * std + mu

    def forward(self, x: Tensor) -> list[Tensor]:
        features = torch.flatten(self.encoder(x), start_dim=1)
        mu, log_var = self.fc_mu(features), self.fc_var(features)
        made = self.decoder_input(self.reparameterize(mu, log_var)).view(-1, 16, 8, 8)
        return [self.decoder(made), mu, log_var]


class WorldModel(nn.Module):
    """Unpadded strides down to a vector, and up again from one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            [nn.Conv2d(a, b, 4, stride=2) for a, b in ((3, 4), (4, 8), (8, 8), (8, 16))]
        )
        self.fc_mu = nn.Linear(16 * 2 * 2, 6)
        self.fc_dec = nn.Linear(6, 32)
        self.up = nn.ModuleList(
            [
                nn.ConvTranspose2d(32, 8, 5, stride=2),
                nn.ConvTranspose2d(8, 8, 5, stride=2),
                nn.ConvTranspose2d(8, 4, 6, stride=2),
                nn.ConvTranspose2d(4, 3, 6, stride=2),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.down:
            x = F.relu(layer(x))
        x = self.fc_dec(self.fc_mu(x.view(x.size(0), -1)))
        x = x.unsqueeze(-1).unsqueeze(-1)
        for layer in self.up[:-1]:
            x = F.relu(layer(x))
        return torch.sigmoid(self.up[-1](x))
