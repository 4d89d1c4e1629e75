"""ResNet-18 on MNIST with Adam, the weights of the lowest validation loss kept in a file."""

import torch
import torch.nn as nn
import torch.optim as optim
from torch.utils.data import DataLoader, random_split
from torchvision import datasets, transforms
from torchvision.models import resnet18

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
dataset = datasets.MNIST(root="./data", train=True, download=True, transform=transform)
test_set = datasets.MNIST(root="./data", train=False, download=True, transform=transform)
train_size = int(0.8 * len(dataset))
train_set, valid_set = random_split(dataset, [train_size, len(dataset) - train_size])
train_loader = DataLoader(train_set, batch_size=32, shuffle=True)
valid_loader = DataLoader(valid_set, batch_size=32, shuffle=False)
test_loader = DataLoader(test_set, batch_size=32, shuffle=False)


def network():
    model = resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=1, padding=3, bias=False)
    return model.to(device)


model = network()
criterion = nn.CrossEntropyLoss()
optimizer = optim.Adam(model.parameters(), lr=1e-3)


def train_step(images, labels):
    images, labels = images.to(device), labels.to(device)
    optimizer.zero_grad()
    loss = criterion(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


def evaluate(loader):
    model.eval()
    running_loss, correct, total = 0.0, 0, 0
    with torch.no_grad():
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            outputs = model(images)
            running_loss += criterion(outputs, labels).item() * images.size(0)
            _, predicted = torch.max(outputs, 1)
            total += labels.size(0)
            correct += (predicted == labels).sum().item()
    return running_loss / total, correct / total


best_loss = float("inf")
for epoch in range(1):
    model.train()
    for images, labels in train_loader:
        loss = train_step(images, labels)
    valid_loss, valid_acc = evaluate(valid_loader)
    print(f"epoch {epoch + 1}: validation loss {valid_loss:.4f}, accuracy {valid_acc:.4f}")
    if valid_loss < best_loss:
        best_loss = valid_loss
        torch.save(model.state_dict(), "model.pth")

model = network()
model.load_state_dict(torch.load("model.pth", map_location=device, weights_only=True))
test_loss, test_acc = evaluate(test_loader)
print(f"test loss {test_loss:.4f}, accuracy {test_acc:.4f}")


def check():
    """The test of the weights in the file, which are of the lowest validation loss."""
    model.load_state_dict(torch.load("model.pth", map_location=device, weights_only=True))
    return evaluate(test_loader)
