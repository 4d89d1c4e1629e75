"""ResNet-18 of lazy layers on Fashion-MNIST at 96x96, in the idiom of Dive into Deep Learning."""

import time

import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils import data
from torchvision import transforms


class Residual(nn.Module):
    def __init__(self, num_channels, use_1x1conv=False, strides=1):
        super().__init__()
        self.conv1 = nn.LazyConv2d(num_channels, kernel_size=3, padding=1, stride=strides)
        self.conv2 = nn.LazyConv2d(num_channels, kernel_size=3, padding=1)
        self.conv3 = None
        if use_1x1conv:
            self.conv3 = nn.LazyConv2d(num_channels, kernel_size=1, stride=strides)
        self.bn1 = nn.LazyBatchNorm2d()
        self.bn2 = nn.LazyBatchNorm2d()

    def forward(self, X):
        Y = F.relu(self.bn1(self.conv1(X)))
        Y = self.bn2(self.conv2(Y))
        if self.conv3:
            X = self.conv3(X)
        Y += X
        return F.relu(Y)


def stage(num_residuals, num_channels, first_block=False):
    blocks = []
    for i in range(num_residuals):
        if i == 0 and not first_block:
            blocks.append(Residual(num_channels, use_1x1conv=True, strides=2))
        else:
            blocks.append(Residual(num_channels))
    return nn.Sequential(*blocks)


def resnet(arch=((2, 64), (2, 128), (2, 256), (2, 512)), num_classes=10):
    net = nn.Sequential(
        nn.Sequential(
            nn.LazyConv2d(64, kernel_size=7, stride=2, padding=3),
            nn.LazyBatchNorm2d(),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
    )
    for i, b in enumerate(arch):
        net.add_module(f"b{i + 2}", stage(*b, first_block=(i == 0)))
    head = nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.LazyLinear(num_classes))
    net.add_module("last", head)
    return net


def try_gpu(i=0):
    if torch.cuda.device_count() >= i + 1:
        return torch.device(f"cuda:{i}")
    return torch.device("cpu")


def load_data_fashion_mnist(batch_size, resize=None):
    trans = [transforms.ToTensor()]
    if resize:
        trans.insert(0, transforms.Resize(resize))
    trans = transforms.Compose(trans)
    train = torchvision.datasets.FashionMNIST(
        root="data", train=True, transform=trans, download=True
    )
    test = torchvision.datasets.FashionMNIST(
        root="data", train=False, transform=trans, download=True
    )
    return (
        data.DataLoader(train, batch_size, shuffle=True, num_workers=0),
        data.DataLoader(test, batch_size, shuffle=False, num_workers=0),
    )


class Accumulator:
    def __init__(self, n):
        self.data = [0.0] * n

    def add(self, *args):
        self.data = [a + float(b) for a, b in zip(self.data, args)]

    def __getitem__(self, i):
        return self.data[i]


class Timer:
    def __init__(self):
        self.times = []

    def start(self):
        self.begun = time.time()

    def stop(self):
        self.times.append(time.time() - self.begun)

    def sum(self):
        return sum(self.times)


def accuracy(y_hat, y):
    if len(y_hat.shape) > 1 and y_hat.shape[1] > 1:
        y_hat = y_hat.argmax(axis=1)
    cmp = y_hat.type(y.dtype) == y
    return float(cmp.type(y.dtype).sum())


def evaluate_accuracy_gpu(net, data_iter, device=None):
    if isinstance(net, nn.Module):
        net.eval()
        if not device:
            device = next(iter(net.parameters())).device
    metric = Accumulator(2)
    with torch.no_grad():
        for X, y in data_iter:
            X, y = X.to(device), y.to(device)
            metric.add(accuracy(net(X), y), y.numel())
    return metric[0] / metric[1]


def init_weights(m):
    if type(m) is nn.Linear or type(m) is nn.Conv2d:
        torch.nn.init.xavier_uniform_(m.weight)


def train_ch6(net, train_iter, test_iter, num_epochs, lr, device):
    net.apply(init_weights)
    net.to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    loss = nn.CrossEntropyLoss()
    timer = Timer()
    for epoch in range(num_epochs):
        metric = Accumulator(3)
        net.train()
        for X, y in train_iter:
            timer.start()
            optimizer.zero_grad()
            X, y = X.to(device), y.to(device)
            y_hat = net(X)
            l = loss(y_hat, y)
            l.backward()
            optimizer.step()
            with torch.no_grad():
                metric.add(l * X.shape[0], accuracy(y_hat, y), X.shape[0])
            timer.stop()
        train_l, train_acc = metric[0] / metric[2], metric[1] / metric[2]
        test_acc = evaluate_accuracy_gpu(net, test_iter)
        print(f"epoch {epoch + 1}: {train_l:.3f}, train acc {train_acc:.3f}, test {test_acc:.3f}")
    print(f"{metric[2] * num_epochs / timer.sum():.1f} examples/s on {device!s}")


train_iter, test_iter = load_data_fashion_mnist(256, resize=96)
net = resnet()
X = torch.rand(size=(1, 1, 96, 96))
for layer in net:
    X = layer(X)
    print(layer.__class__.__name__, "output shape", tuple(X.shape))
train_ch6(net, train_iter, test_iter, num_epochs=1, lr=0.05, device=try_gpu())
torch.save(net.state_dict(), "model.pth")


def check():
    """What the weights of the file make of the test images: the mean of each logit."""
    net.load_state_dict(torch.load("model.pth", weights_only=True))
    net.eval()
    with torch.no_grad():
        logits = [net(X).mean(dim=0) for X, _ in test_iter]
    return [*logits[0].tolist(), evaluate_accuracy_gpu(net, test_iter)]
