"""ResNet-50 of Keras courses on a folder of hand signs, six classes at 64x64, in torch's words."""

import torch
from torch import nn, optim
from torch.utils.data import DataLoader
from torchvision import datasets, transforms


def conv(c_in, c_out, kernel, stride=1, padding=0):
    layer = nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=padding)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(layer, nn.BatchNorm2d(c_out, eps=1e-3, momentum=0.01))


class Block(nn.Module):
    """An identity block; with a ``stride``, a convolutional block."""

    def __init__(self, c_in, filters, stride=None):
        super().__init__()
        f1, f2, f3 = filters
        self.a = conv(c_in, f1, 1, stride or 1)
        self.b = conv(f1, f2, 3, padding=1)
        self.c = conv(f2, f3, 1)
        self.shortcut = nn.Identity() if stride is None else conv(c_in, f3, 1, stride)

    def forward(self, x):
        y = torch.relu(self.a(x))
        y = torch.relu(self.b(y))
        return torch.relu(self.c(y) + self.shortcut(x))


def resnet50(classes=6):
    layers = [conv(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, stride=2)]
    c_in = 64
    for i, blocks in enumerate((3, 4, 6, 3)):
        filters = [64 * 2**i, 64 * 2**i, 256 * 2**i]
        layers.append(Block(c_in, filters, stride=1 if i == 0 else 2))
        c_in = filters[-1]
        layers += [Block(c_in, filters) for _ in range(blocks - 1)]
    return nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2048, classes))


transform = transforms.Compose([transforms.Resize((64, 64)), transforms.ToTensor()])
train_set = datasets.ImageFolder("signs/train", transform=transform)
test_set = datasets.ImageFolder("signs/test", transform=transform)
print(train_set.classes, train_set.class_to_idx)
train_loader = DataLoader(train_set, batch_size=32, shuffle=True)
test_loader = DataLoader(test_set, batch_size=32)

model = resnet50(classes=len(train_set.classes))
print(sum(p.numel() for p in model.parameters()))
criterion = nn.CrossEntropyLoss()
optimizer = optim.Adam(model.parameters())
model.train()
for images, labels in train_loader:
    optimizer.zero_grad()
    loss = criterion(model(images), labels)
    loss.backward()
    optimizer.step()
torch.save(model.state_dict(), "model.pth")


def check():
    """The probabilities that the weights of the file give the first test picture."""
    model.load_state_dict(torch.load("model.pth", weights_only=True))
    model.eval()
    with torch.no_grad():
        images, _ = next(iter(test_loader))
        return torch.softmax(model(images), dim=1)[0].tolist()


print(check())
